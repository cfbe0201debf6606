// A vector that refuses to grow beyond its bound, as rosidl's does.
#ifndef ROSIDL_RUNTIME_CPP__BOUNDED_VECTOR_HPP_
#define ROSIDL_RUNTIME_CPP__BOUNDED_VECTOR_HPP_
#include <cstddef>
#include <stdexcept>
#include <vector>

namespace rosidl_runtime_cpp {

template <typename T, std::size_t kBound>
class BoundedVector : private std::vector<T> {
  using Base = std::vector<T>;

 public:
  using Base::begin;
  using Base::empty;
  using Base::end;
  using Base::size;
  using Base::operator[];

  void resize(std::size_t size) {
    if (size > kBound) throw std::length_error("Exceeded upper bound");
    Base::resize(size);
  }
  void push_back(const T& value) {
    if (size() >= kBound) throw std::length_error("Exceeded upper bound");
    Base::push_back(value);
  }
};

}  // namespace rosidl_runtime_cpp

#endif  // ROSIDL_RUNTIME_CPP__BOUNDED_VECTOR_HPP_
