# stand_in_messages(OUT): headers of ROS's own messages that the node uses, and of the node's, written to OUT while configuring.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(STAND_IN_DIR "${CMAKE_CURRENT_LIST_DIR}")

function(stand_in_package_messages out package)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARGN} "${STAND_IN_DIR}/generate_messages.py")
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" "${STAND_IN_DIR}/generate_messages.py" "${out}" "${package}" ${ARGN}
    COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(stand_in_messages out)
  foreach(package builtin_interfaces std_msgs diagnostic_msgs rcl_interfaces lifecycle_msgs hri_msgs)
    file(GLOB files CONFIGURE_DEPENDS "${STAND_IN_DIR}/msg/${package}/*.msg")
    stand_in_package_messages("${out}" ${package} ${files})
  endforeach()
endfunction()
