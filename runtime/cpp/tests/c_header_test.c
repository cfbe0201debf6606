/* The header must be C11, without C++ behind it. */
#include "dmdkit/dmdkit.h"

int dmdkit_c_header_abi(void);

int dmdkit_c_header_abi(void) {
  dmdkit_options options;
  dmdkit_options_init(&options);
  return options.struct_size == sizeof options ? (int)dmdkit_abi_version() : -1;
}
