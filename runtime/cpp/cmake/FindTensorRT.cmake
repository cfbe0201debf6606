# Headers and library of TensorRT (JetPack, a .deb or tar installation) or TensorRT-RTX, with CUDA's runtime. Looks at
# TENSORRT_ROOT and CUDA_ROOT, then where JetPack's packages and CUDA put them. Sets TensorRT_FOUND, TensorRT_FLAVOUR
# (tensorrt or tensorrt_rtx), TensorRT_VERSION and the target TensorRT::TensorRT.
set(tensorrt_hints "${TENSORRT_ROOT}" "$ENV{TENSORRT_ROOT}")
set(cuda_hints "${CUDA_ROOT}" "$ENV{CUDA_ROOT}" "$ENV{CUDA_HOME}" /usr/local/cuda)
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ${tensorrt_hints} PATH_SUFFIXES include ${CMAKE_LIBRARY_ARCHITECTURE})
# The lean runtime is last: it opens only version-compatible plans.
find_library(TensorRT_LIBRARY NAMES nvinfer tensorrt_rtx nvinfer_lean
  HINTS ${tensorrt_hints} PATH_SUFFIXES lib lib64)
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${cuda_hints} PATH_SUFFIXES include)
find_library(TensorRT_CUDART cudart HINTS ${cuda_hints} PATH_SUFFIXES lib lib64)

# TensorRT 10 defines its numbers directly, later releases through a second name.
set(TensorRT_VERSION "")
if(TensorRT_INCLUDE_DIR)
  file(READ "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" tensorrt_text)
  foreach(part IN ITEMS MAJOR MINOR PATCH)
    if(tensorrt_text MATCHES "#define (NV_TENSORRT_${part}|TRT_${part}_[A-Z]+) +([0-9]+)")
      string(APPEND TensorRT_VERSION ".${CMAKE_MATCH_2}")
    endif()
  endforeach()
  string(REGEX REPLACE "^\\." "" TensorRT_VERSION "${TensorRT_VERSION}")
endif()
set(TensorRT_FLAVOUR tensorrt)
if(TensorRT_LIBRARY MATCHES "tensorrt_rtx")
  set(TensorRT_FLAVOUR tensorrt_rtx)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_CUDA_INCLUDE_DIR TensorRT_CUDART
  VERSION_VAR TensorRT_VERSION)
if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT INTERFACE IMPORTED)
  target_include_directories(TensorRT::TensorRT SYSTEM INTERFACE "${TensorRT_INCLUDE_DIR}" "${TensorRT_CUDA_INCLUDE_DIR}")
  target_link_libraries(TensorRT::TensorRT INTERFACE "${TensorRT_LIBRARY}" "${TensorRT_CUDART}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY TensorRT_CUDA_INCLUDE_DIR TensorRT_CUDART)
