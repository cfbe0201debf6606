if(NOT TARGET stand_in_diagnostic_msgs)
  add_library(stand_in_diagnostic_msgs INTERFACE)
endif()
set(diagnostic_msgs_TARGETS stand_in_diagnostic_msgs)
