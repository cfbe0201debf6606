if(NOT TARGET stand_in_rcl_interfaces)
  add_library(stand_in_rcl_interfaces INTERFACE)
endif()
set(rcl_interfaces_TARGETS stand_in_rcl_interfaces)
