# What `cmake --install` writes: headers, libraries, the CMake package and pkg-config's file.
set(dmdkit_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/dmdkit")
install(TARGETS dmdkit EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(DMDKIT_BUILD_ONNXRUNTIME)
  install(TARGETS dmdkit_onnxruntime EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(dmdkit_has_tensorrt)
  install(TARGETS dmdkit_tensorrt EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(DMDKIT_BUILD_TOOLS)
  install(TARGETS dmdkit-run RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(
  FILES include/dmdkit/dmdkit.h include/dmdkit/result.hpp include/dmdkit/runtime.hpp include/dmdkit/types.hpp
        "${CMAKE_CURRENT_BINARY_DIR}/include/dmdkit/version.h"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/dmdkit")
install(EXPORT dmdkitTargets NAMESPACE dmdkit:: DESTINATION "${dmdkit_package_dir}")
configure_package_config_file(cmake/dmdkitConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/dmdkitConfig.cmake"
  INSTALL_DESTINATION "${dmdkit_package_dir}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/dmdkitConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(
  FILES "${CMAKE_CURRENT_BINARY_DIR}/dmdkitConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/dmdkitConfigVersion.cmake"
  DESTINATION "${dmdkit_package_dir}")
# Relative, so that `cmake --install --prefix` and a moved tree stay right.
file(RELATIVE_PATH dmdkit_pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(cmake/dmdkit.pc.in dmdkit.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dmdkit.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
