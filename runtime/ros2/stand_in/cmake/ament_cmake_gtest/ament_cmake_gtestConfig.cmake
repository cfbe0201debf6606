find_package(GTest REQUIRED)
function(ament_add_gtest name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} GTest::gtest_main)  # without a keyword, as ament has it: a keyword in the package is an error
  add_test(NAME ${name} COMMAND ${name})
endfunction()
