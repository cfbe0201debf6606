// The global operator new, counting while a test asks it to. Linked into one program at a time. (malloc itself is not counted,
// as the sanitizers bring their own; our code allocates with new and std::vector only, apart from the buffers.)
#ifndef DMDKIT_TESTS_COUNTING_NEW_HPP_
#define DMDKIT_TESTS_COUNTING_NEW_HPP_

namespace dmdkit_test {

void start_counting();
// Allocations of all threads since start_counting, which ends with this.
long stop_counting();

template <typename Body>
long allocations_of(int calls, Body&& body) {
  start_counting();
  for (int i = 0; i < calls; ++i) body();
  return stop_counting();
}

}  // namespace dmdkit_test

#endif  // DMDKIT_TESTS_COUNTING_NEW_HPP_
