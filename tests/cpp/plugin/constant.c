/* A backend that answers 0.25 for every sample, whatever the graph: the contract of dmdkit/backend.h from the outside, in C.
 * Its sizes are those of the bundle that the test opens. */
#include <dmdkit/backend.h>
#include <stdlib.h>

struct dmdkit_backend_session {
  size_t batch;
  float* score;
};

static const char* const kNames[] = {"text", "audio", "vision", "score"};
static const int64_t kShapes[4][3] = {{-1, 6, 7}, {-1, 6, 4}, {-1, 6, 5}, {-1, 1, 0}};

static const char* describe(void) { return "constant 1"; }

static int open_session(const dmdkit_backend_open_args* args, dmdkit_backend_session** session, char* error,
                        size_t error_size) {
  (void)args, (void)error, (void)error_size;
  *session = calloc(1, sizeof **session);
  return *session != NULL ? DMDKIT_BACKEND_OK : DMDKIT_BACKEND_NO_MEMORY;
}

static size_t input_count(const dmdkit_backend_session* session) { return (void)session, 3; }
static size_t output_count(const dmdkit_backend_session* session) { return (void)session, 1; }

static void input(const dmdkit_backend_session* session, size_t index, dmdkit_backend_tensor* tensor) {
  (void)session;
  tensor->name = kNames[index];
  tensor->shape = kShapes[index];
  tensor->rank = 3;
}

static void output(const dmdkit_backend_session* session, size_t index, dmdkit_backend_tensor* tensor) {
  (void)session, (void)index;
  tensor->name = kNames[3];
  tensor->shape = kShapes[3];
  tensor->rank = 2;
}

static int bind(dmdkit_backend_session* session, size_t batch, float* const* inputs, float* const* outputs, char* error,
                size_t error_size) {
  (void)inputs, (void)error, (void)error_size;
  session->batch = batch;
  session->score = outputs[0];
  return DMDKIT_BACKEND_OK;
}

static int run(dmdkit_backend_session* session, char* error, size_t error_size) {
  (void)error, (void)error_size;
  for (size_t i = 0; i < session->batch; ++i) session->score[i] = 0.25F;
  return DMDKIT_BACKEND_OK;
}

static void close_session(dmdkit_backend_session* session) { free(session); }
static const char* note(const dmdkit_backend_session* session) { return (void)session, NULL; }

const dmdkit_backend_vtable* dmdkit_backend_entry(uint32_t abi_version) {
  static const dmdkit_backend_vtable kTable = {DMDKIT_BACKEND_ABI_VERSION,
                                               sizeof(dmdkit_backend_vtable),
                                               describe,
                                               open_session,
                                               input_count,
                                               output_count,
                                               input,
                                               output,
                                               bind,
                                               run,
                                               close_session,
                                               0,
                                               note};
  return abi_version == DMDKIT_BACKEND_ABI_VERSION ? &kTable : NULL;
}
