// SPDX-License-Identifier: Apache-2.0
// The operators of com.qcompile: each file adds its registrations.
#pragma once

#include <list>

#include "op.h"

namespace qcompile {

using Definitions = std::list<OpDefinition>;  // addresses stay: ORT keeps them
using Ports = std::vector<Port>;

void add_qmatmul(Definitions* out);
void add_qconv(Definitions* out);
void add_qgather(Definitions* out);
void add_qadd(Definitions* out);
void add_qlut(Definitions* out);
void add_qmul(Definitions* out);
void add_qresize(Definitions* out);
void add_qpool(Definitions* out);
void add_qlayer_norm(Definitions* out);
void add_qsoftmax(Definitions* out);
void add_qattention(Definitions* out);
void add_qdynamic_attention(Definitions* out);
void add_hadamard(Definitions* out);
void add_quantize(Definitions* out);

}  // namespace qcompile
