// SPDX-License-Identifier: Apache-2.0
// Compares our declarations (ort_abi.h) with the official header, function by function: the place in the
// table, the number of arguments, and of each whether it is a pointer, its size and its signedness. Opaque
// structs and enums have other names on the two sides, so types cannot be compared by name.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <tuple>
#include <type_traits>

#include "ort_abi.h"

template <class A, class B>
constexpr bool same_argument() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using P = std::remove_cv_t<std::remove_pointer_t<A>>;
    using Q = std::remove_cv_t<std::remove_pointer_t<B>>;
    if constexpr (std::is_function_v<P> || std::is_function_v<Q>) {
      return std::is_function_v<P> == std::is_function_v<Q>;
    } else if constexpr (std::is_pointer_v<P> || std::is_pointer_v<Q>) {
      return same_argument<P, Q>();
    } else if constexpr (std::is_arithmetic_v<P> && std::is_arithmetic_v<Q>) {
      return same_argument<P, Q>();
    } else {
      return true;  // structs of both sides, void, or an enum behind a pointer
    }
  } else if constexpr (std::is_void_v<A> || std::is_void_v<B>) {
    return std::is_void_v<A> == std::is_void_v<B>;
  } else {
    return std::is_pointer_v<A> == std::is_pointer_v<B> && sizeof(A) == sizeof(B) &&
           std::is_floating_point_v<A> == std::is_floating_point_v<B>;
  }
}

template <class F>
struct Signature;
template <class R, class... A>
struct Signature<R (*)(A...)> {
  using result = R;
  using arguments = std::tuple<A...>;
};
template <class R, class... A>
struct Signature<R (*)(A...) noexcept> : Signature<R (*)(A...)> {};

template <class A, class B, size_t... I>
constexpr bool same_arguments(std::index_sequence<I...>) {
  return (same_argument<std::tuple_element_t<I, A>, std::tuple_element_t<I, B>>() && ...);
}

template <class F, class G>
constexpr bool same_signature() {
  using A = typename Signature<F>::arguments;
  using B = typename Signature<G>::arguments;
  if constexpr (std::tuple_size_v<A> != std::tuple_size_v<B>) {
    return false;
  } else {
    return same_argument<typename Signature<F>::result, typename Signature<G>::result>() &&
           same_arguments<A, B>(std::make_index_sequence<std::tuple_size_v<A>>());
  }
}

#define CHECK_FUNCTION(table, member)                                                   \
  static_assert(offsetof(::table, member) == offsetof(qcompile::ort::table, member),    \
                #member " is in another place than in the official header");            \
  static_assert(same_signature<decltype(::table::member),                               \
                               decltype(qcompile::ort::table::member)>(),               \
                #member " has other arguments than in the official header")
#define CHECK_VALUE(theirs, ours)                                             \
  static_assert(static_cast<int>(theirs) == static_cast<int>(qcompile::ort::ours), \
                #ours " has another value than in the official header")
