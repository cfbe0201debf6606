// Large weights on huge pages: a text encoder reads all its weights for every sentence, however short, and from small pages one
// core reads memory at about half the rate. ONNX Runtime allocates from the heap and asks for nothing; so what it allocated
// while a session was opened is moved afterwards. The same rule as runtime/backends/huge_pages.py.
#ifndef DMDKIT_BACKENDS_ONNXRUNTIME_HUGE_PAGES_HPP_
#define DMDKIT_BACKENDS_ONNXRUNTIME_HUGE_PAGES_HPP_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dmdkit_onnxruntime {

// Smaller graphs stay where they are: their weights stay in a cache.
inline constexpr std::size_t kHugePagesFrom = std::size_t{8} << 20;

// Made before a session is opened, asked after. Never an error: what cannot be moved stays where it is.
class HugePages {
 public:
  // `model_bytes`: size of the graph's file; below kHugePagesFrom nothing is done.
  explicit HugePages(std::size_t model_bytes);

  // Moves what was allocated since to huge pages; bytes that the kernel took.
  std::size_t take_what_came() const noexcept;

 private:
  using Ranges = std::vector<std::pair<std::uintptr_t, std::uintptr_t>>;
  static Ranges anonymous();

  std::size_t page_ = 0;  // 0: nothing is done
  Ranges before_;
};

}  // namespace dmdkit_onnxruntime

#endif  // DMDKIT_BACKENDS_ONNXRUNTIME_HUGE_PAGES_HPP_
