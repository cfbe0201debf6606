# What `cmake --install` writes: headers, libraries, the CMake package and pkg-config's file.
set(dmdkit_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/dmdkit")
install(TARGETS dmdkit dmdkit_headers EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(DMDKIT_BUILD_ONNXRUNTIME)
  install(TARGETS dmdkit_onnxruntime EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
# Beside the plug-in, whose run path is its own folder, so that an installed package runs as it is. Not one that the loader finds
# anyway, and none without its licence.
if(DMDKIT_BUILD_ONNXRUNTIME AND DMDKIT_INSTALL_ONNXRUNTIME AND NOT onnxruntime_LIBRARY)
  message(STATUS "ONNX Runtime's library was not found and will not be installed; the loader must find one at run time")
elseif(DMDKIT_BUILD_ONNXRUNTIME AND DMDKIT_INSTALL_ONNXRUNTIME
       AND NOT onnxruntime_LIBRARY_DIR IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES)
  get_filename_component(onnxruntime_root "${onnxruntime_LIBRARY_DIR}" DIRECTORY)
  set(onnxruntime_licences "${onnxruntime_root}/LICENSE" "${onnxruntime_root}/ThirdPartyNotices.txt")
  if(EXISTS "${onnxruntime_root}/LICENSE" AND EXISTS "${onnxruntime_root}/ThirdPartyNotices.txt")
    get_filename_component(onnxruntime_file "${onnxruntime_LIBRARY}" REALPATH)
    # Under the one name by which the plug-in asks for it.
    install(PROGRAMS "${onnxruntime_file}" DESTINATION "${CMAKE_INSTALL_LIBDIR}" RENAME libonnxruntime.so.1)
    install(FILES ${onnxruntime_licences} DESTINATION "${CMAKE_INSTALL_DOCDIR}/onnxruntime")
  else()
    message(WARNING "ONNX Runtime will not be installed: ${onnxruntime_root} lacks its LICENSE or ThirdPartyNotices.txt; "
                    "use a whole release archive, or -DDMDKIT_INSTALL_ONNXRUNTIME=OFF")
  endif()
endif()
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
if(DMDKIT_BUILD_NATIVE)
  install(TARGETS dmdkit_native EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(dmdkit_has_tensorrt)
  install(TARGETS dmdkit_tensorrt EXPORT dmdkitTargets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(DMDKIT_BUILD_TOOLS)
  install(TARGETS dmdkit-run RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(
  FILES include/dmdkit/backend.h include/dmdkit/dmdkit.h include/dmdkit/result.hpp include/dmdkit/runtime.hpp
        include/dmdkit/stream.hpp include/dmdkit/types.hpp
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
