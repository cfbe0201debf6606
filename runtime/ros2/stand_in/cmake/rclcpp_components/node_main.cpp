// Loads the component's library as the main of rclcpp_components does.
#include <dlfcn.h>

#include <cstdio>

int main() {
  if (::dlopen(STAND_IN_LIBRARY, RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "Could not load library: %s\n", ::dlerror());
    return 1;
  }
  std::printf("loaded %s\n", STAND_IN_LIBRARY);
  return 0;
}
