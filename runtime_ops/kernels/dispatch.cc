// SPDX-License-Identifier: Apache-2.0
// Which kernels run: the processor's features, read by hand (gcc 12's __builtin_cpu_supports does
// not know avxvnni), and QCOMPILE_ISA.
#include <cstdio>
#include <cstring>

#include "kernels.h"

#ifdef QC_X86
#include <cpuid.h>
#endif
#ifdef QC_ARM64
#include <sys/auxv.h>
#endif

namespace qcompile {

const char* const kIsaNames[kNumIsas] = {"scalar", "avx2", "avxvnni", "avx512vnni",
                                         "avx512vbmi2", "dotprod", "i8mm"};

#ifdef QC_X86
namespace {

#ifdef QC_EMULATE
constexpr bool kIsEmulated = true;
#else
constexpr bool kIsEmulated = false;
#endif

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return Registers();
  return r;
}

bool bit(unsigned word, int index) { return (word >> index) & 1u; }

// XCR0 says which registers the operating system saves.
unsigned xcr0() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

bool is_supported(Isa isa) {
  if (isa == Isa::scalar) return true;
  if (isa == Isa::dotprod || isa == Isa::i8mm) return false;
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  if (!bit(one.ecx, 27)) return false;  // OSXSAVE
  const unsigned saved = xcr0();
  const bool has_avx2 = (saved & 0x6) == 0x6 && bit(one.ecx, 12) /* FMA */ &&
                        bit(one.ecx, 29) /* F16C */ && bit(seven.ebx, 5) /* AVX2 */;
  if (isa == Isa::avx2 || kIsEmulated) return has_avx2;
  if (isa == Isa::avxvnni) return has_avx2 && bit(seven_one.eax, 4);
  const bool has_avx512 = bit(seven.ebx, 16) /* F */ && bit(seven.ebx, 17) /* DQ */ &&
                          bit(seven.ebx, 30) /* BW */ && bit(seven.ebx, 31) /* VL */;
  const bool has_vnni =
      has_avx2 && (saved & 0xe6) == 0xe6 && has_avx512 && bit(seven.ecx, 11) /* VNNI */;
  const bool has_vbmi = bit(seven.ecx, 1) /* VBMI */ && bit(seven.ecx, 6) /* VBMI2 */;
  return has_vnni && (isa == Isa::avx512vnni || has_vbmi);
}
#elif defined(QC_ARM64)
bool is_supported(Isa isa) {
  if (isa == Isa::scalar) return true;
  const bool has_dotprod = getauxval(AT_HWCAP) & 1ul << 20;  // HWCAP_ASIMDDP
  if (isa == Isa::dotprod) return has_dotprod;
  return isa == Isa::i8mm && has_dotprod && (getauxval(AT_HWCAP2) & 1ul << 13);  // HWCAP2_I8MM
}
#else
bool is_supported(Isa isa) { return isa == Isa::scalar; }
#endif

namespace {

void use_up_to(Isa isa, Kernels* k) {
#define QC_KERNEL(name, line_isa) QC_KERNEL_##line_isa(name)
#define QC_KERNEL_scalar(name) k->name = name##__scalar;
#ifdef QC_X86
#define QC_KERNEL_avx2(name) \
  if (isa >= Isa::avx2) k->name = name##__avx2;
#define QC_KERNEL_avxvnni(name) \
  if (isa >= Isa::avxvnni) k->name = name##__avxvnni;
#define QC_KERNEL_avx512vnni(name) \
  if (isa >= Isa::avx512vnni) k->name = name##__avx512vnni;
#define QC_KERNEL_avx512vbmi2(name) \
  if (isa >= Isa::avx512vbmi2) k->name = name##__avx512vbmi2;
#else
#define QC_KERNEL_avx2(name)
#define QC_KERNEL_avxvnni(name)
#define QC_KERNEL_avx512vnni(name)
#define QC_KERNEL_avx512vbmi2(name)
#endif
#ifdef QC_ARM64
#define QC_KERNEL_dotprod(name) \
  if (isa >= Isa::dotprod) k->name = name##__dotprod;
#define QC_KERNEL_i8mm(name) \
  if (isa >= Isa::i8mm) k->name = name##__i8mm;
#else
#define QC_KERNEL_dotprod(name)
#define QC_KERNEL_i8mm(name)
#endif
  (void)isa;
#include "kernels.inc"
}

}  // namespace

bool choose_kernels(const char* forced, Kernels* out, const char** message) {
  static thread_local char text[256];
  int best = 0;
  char known[96] = "";
  for (int i = 0; i < kNumIsas; ++i) {
    if (!is_supported(static_cast<Isa>(i))) continue;
    best = i;
    std::strncat(known, i ? ", " : "", sizeof known - std::strlen(known) - 1);
    std::strncat(known, kIsaNames[i], sizeof known - std::strlen(known) - 1);
  }
  int chosen = best;
  if (forced && *forced) {
    chosen = -1;
    for (int i = 0; i < kNumIsas; ++i) {
      if (!std::strcmp(forced, kIsaNames[i]) && is_supported(static_cast<Isa>(i))) chosen = i;
    }
    if (chosen < 0) {
      std::snprintf(text, sizeof text,
                    "QCOMPILE_ISA=%.40s: this processor and this build run %s. Set one of them, or "
                    "unset QCOMPILE_ISA for the best.",
                    forced, known);
      *message = text;
      return false;
    }
  }
  // An avx512 processor without AVX-VNNI still climbs the ladder: its own lines come last and win.
  use_up_to(static_cast<Isa>(chosen), out);
#ifdef QC_X86
  const bool permutes_bytes = out->matmul_s8_table == matmul_s8_table__avx512vbmi2;
  out->table_widths = permutes_bytes ? 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 : 0;
  out->multiplies_words = out->matmul_s8_n16k4 == matmul_s8_n16k4__avx2;
#endif
#ifdef QC_ARM64
  out->table_widths = out->matmul_s8_table ? 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 : 0;
#endif
  return true;
}

}  // namespace qcompile
