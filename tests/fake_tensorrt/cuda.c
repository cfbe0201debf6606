/* A stand-in for libcuda and libcudart: one H100 whose memory is the host's. */
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) { (void)device; strncpy(name, "Stand-in H100", length); return 0; }
int cuDriverGetVersion(int* version) { *version = 12060; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 9 : 0; /* compute capability 9.0, discrete */
  return 0;
}
int cudaStreamCreate(void** stream) { *stream = 0; return 0; }
int cudaStreamDestroy(void* stream) { (void)stream; return 0; }
int cudaStreamSynchronize(void* stream) { (void)stream; return 0; }
int cudaMalloc(void** pointer, size_t size) { return (*pointer = malloc(size)) ? 0 : 2; }
int cudaFree(void* pointer) { free(pointer); return 0; }
int cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream) {
  (void)kind; (void)stream;
  memcpy(target, source, size);
  return 0;
}
