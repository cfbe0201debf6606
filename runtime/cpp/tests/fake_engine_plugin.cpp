// The TensorRT plug-in over the stand-in of fake_gpu.hpp, so that tests open engines through the whole library.
#include "fake_gpu.hpp"

namespace dmdkit_tensorrt {

Platform platform() {
  static FakeDevice* device = new FakeDevice;
  static FakeLibrary* library = new FakeLibrary(*device);
  return {*device, *library};
}

}  // namespace dmdkit_tensorrt
