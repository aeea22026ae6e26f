# SPDX-License-Identifier: Apache-2.0
"""palette<b>: 2^b values of its own for every block, or every output, of a weight.

What palettized weights are (Core ML Tools), and those of SqueezeLLM (Kim et al. 2024) and GPTVQ in
one dimension (van Baalen et al. 2024): a code is a place in the codebook of its block, whose levels
are float32 numbers in the weight. So the format names none, and integer products have none. It is
recognised (observers/palette_of.py) and cannot be asked for; kmeans<b> fits levels to a weight.
"""

from qcompile.formats.format import Format

MOST_BITS = 4
PALETTES = {
    f"palette{bits}": Format(f"palette{bits}", bits, is_signed=False, has_codebook=True)
    for bits in range(1, MOST_BITS + 1)
}
