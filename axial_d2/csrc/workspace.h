// A thread's memory, zero at first. Not a template: it must be compiled for the plainest processor.
#pragma once

#include <cstddef>
#include <vector>

namespace axial_d2 {

class Workspace {
 public:
  // `bytes` bytes of zeros that begin at a multiple of 64.
  void* take_bytes(size_t bytes);

  template <class T>
  T* take(size_t count) {
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }

 private:
  std::vector<std::vector<char>> parts_;
};

}  // namespace axial_d2
