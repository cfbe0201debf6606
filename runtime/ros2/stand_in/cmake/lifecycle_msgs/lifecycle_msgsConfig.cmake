if(NOT TARGET stand_in_lifecycle_msgs)
  add_library(stand_in_lifecycle_msgs INTERFACE)
endif()
set(lifecycle_msgs_TARGETS stand_in_lifecycle_msgs)
