# Headers of ONNX Runtime's C API, and its library for running in the build tree. Looks at onnxruntime_ROOT (a release archive,
# or what scripts/onnxruntime_sdk.py wrote), then at an installed package. Sets OnnxRuntimeHeaders_FOUND,
# onnxruntime_INCLUDE_DIR and onnxruntime_LIBRARY_DIR.
find_path(onnxruntime_INCLUDE_DIR onnxruntime_c_api.h
  HINTS "${onnxruntime_ROOT}" "$ENV{onnxruntime_ROOT}"
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime/core/session
  NO_CMAKE_FIND_ROOT_PATH)
find_library(onnxruntime_LIBRARY onnxruntime
  HINTS "${onnxruntime_ROOT}" "$ENV{onnxruntime_ROOT}"
  PATH_SUFFIXES lib lib64
  NO_CMAKE_FIND_ROOT_PATH)
if(onnxruntime_LIBRARY)
  get_filename_component(onnxruntime_LIBRARY_DIR "${onnxruntime_LIBRARY}" DIRECTORY)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders
  REQUIRED_VARS onnxruntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "pass -Donnxruntime_ROOT=DIR of a release archive or of scripts/onnxruntime_sdk.py, or -DDMDKIT_BUILD_ONNXRUNTIME=OFF")
mark_as_advanced(onnxruntime_INCLUDE_DIR onnxruntime_LIBRARY)
