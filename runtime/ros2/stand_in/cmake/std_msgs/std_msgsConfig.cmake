if(NOT TARGET stand_in_std_msgs)
  add_library(stand_in_std_msgs INTERFACE)
endif()
set(std_msgs_TARGETS stand_in_std_msgs)
