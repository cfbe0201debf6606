/* The contract between libdmdkit and a backend plug-in, libdmdkit_NAME.so: plain C, because the two may be built apart.
 *
 * All tensors are float32, but for the tokens that a text graph takes; where another graph takes whole numbers (int64) the
 * backend converts them, as they come. The core owns the buffers; a backend binds them once per batch size and then only runs.
 * No function may throw. Functions that can fail return 0 or non-zero, and then write a zero-terminated text of at most
 * error_size bytes to error: DMDKIT_BACKEND_NO_DEVICE for a device that is not here, DMDKIT_BACKEND_NO_MEMORY,
 * DMDKIT_BACKEND_FAILED otherwise. */
#ifndef DMDKIT_BACKEND_H_
#define DMDKIT_BACKEND_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DMDKIT_BACKEND_ABI_VERSION 2
#define DMDKIT_BACKEND_ENTRY "dmdkit_backend_entry"

enum { DMDKIT_BACKEND_OK = 0, DMDKIT_BACKEND_FAILED = 1, DMDKIT_BACKEND_NO_DEVICE = 2, DMDKIT_BACKEND_NO_MEMORY = 3 };

typedef struct dmdkit_backend_session dmdkit_backend_session;

typedef struct {
  const char* key;
  const char* value;
} dmdkit_backend_entry_pair;

/* A finished engine, for a backend that runs those. Its sidecar says what built it and for which GPUs; the core has checked the
 * hashes, the backend compares the rest with what is here before it lets its library read the plan. */
typedef struct {
  const char* name;                        /* TARGET.KIND.PRECISION, for messages */
  const char* flavour;                     /* tensorrt or tensorrt_rtx */
  const char* version;                     /* of what built it */
  const char* const* compute_capabilities; /* "8.7" */
  size_t compute_capability_count;
  const char* gpu; /* the GPU that built it, or null */
  const void* plan;
  size_t plan_bytes;
} dmdkit_backend_engine;

/* What to open. Pointers are valid during the call only. */
typedef struct {
  size_t struct_size;
  const char* graph; /* its name, for messages */
  const void* model; /* the ONNX file, already checked against its hash; null for a backend that takes engines */
  size_t model_bytes;
  const char* device; /* cpu or cuda */
  int threads;
  int spin; /* 1, 0, or -1 for the backend's default */
  const char* affinity;
  const dmdkit_backend_entry_pair* session_options; /* what the manifest asks for */
  size_t session_option_count;
  const dmdkit_backend_entry_pair* provider_options; /* what the application asks for */
  size_t provider_option_count;
  const dmdkit_backend_engine* engine; /* null for a backend that takes ONNX files */
  int tokens; /* 1: a text graph, whose inputs are int64 (batch, length); only where the table has run_tokens */
  /* A step graph (docs/streaming.md), for a session that holds the state of one stream itself: `model` is then the fusion graph
   * of the same precision, whose weights it may share with sessions of that graph. Null for every other session; only where
   * the table has step. Such a session describes as inputs the modalities (-1, features) and the state's tensors (heads, width,
   * capacity) in the manifest's order, as outputs score, logit_hetero and perhaps edges_hetero; it is never bound nor run. */
  const void* step_model;
  size_t step_model_bytes;
} dmdkit_backend_open_args;

/* One input or output. shape[0] is the batch and -1, shape[1] of a text graph too where it takes any length. In a step graph
 * the one -1, the new steps, may be at any place, and a tensor without it is the same for every number of them. name and shape
 * live as long as the session. */
typedef struct {
  const char* name;
  const int64_t* shape;
  size_t rank;
} dmdkit_backend_tensor;

typedef struct {
  uint32_t abi_version;
  size_t struct_size;
  /* "onnxruntime 1.31.1"; lives as long as the library. */
  const char* (*describe)(void);
  int (*open)(const dmdkit_backend_open_args* args, dmdkit_backend_session** session, char* error, size_t error_size);
  size_t (*input_count)(const dmdkit_backend_session* session);
  size_t (*output_count)(const dmdkit_backend_session* session);
  void (*input)(const dmdkit_backend_session* session, size_t index, dmdkit_backend_tensor* tensor);
  void (*output)(const dmdkit_backend_session* session, size_t index, dmdkit_backend_tensor* tensor);
  /* Binds one buffer per input and output, each holding the product of its sizes with batch for -1; replaces an earlier
   * binding. The buffers stay valid until the next bind or close. */
  int (*bind)(dmdkit_backend_session* session, size_t batch, float* const* inputs, float* const* outputs, char* error,
              size_t error_size);
  /* Runs on the bound buffers. Never called on one session by two threads at once. */
  int (*run)(dmdkit_backend_session* session, char* error, size_t error_size);
  void (*close)(dmdkit_backend_session* session); /* null is allowed */
  /* 1: opens the engines of a bundle, not its ONNX files. */
  int takes_engines;
  /* How the session runs since the last bind, "CUDA graph"; null, or a null answer, if there is nothing to say. */
  const char* (*note)(const dmdkit_backend_session* session);
  /* Runs a session that was opened with `tokens`: one buffer of batch times length per input, and one of batch times length
   * times the output's last size. Null, or beyond struct_size, in a backend that takes no tokens; its text graphs are not asked
   * for. */
  int (*run_tokens)(dmdkit_backend_session* session, size_t batch, size_t length, const int64_t* const* inputs, float* output,
                    char* error, size_t error_size);
  /* Another session of the same opened model, with bindings of its own: the two may run at once and are closed apart. Null, or
   * left out of a table whose struct_size says so: the backend cannot, and the core opens the model again. */
  int (*share)(const dmdkit_backend_session* session, dmdkit_backend_session** other, char* error, size_t error_size);
  /* Of a session opened with `step_model`; null, or beyond struct_size, in a backend that keeps no state of streams.
   * step computes `count` projected steps behind the `place` ones that the state holds, from kernel - 1 + count raw steps
   * (steps, features) of text, audio and vision, into count rows of each output. It writes the state of the new steps alone:
   * they count once the next call's place is beyond them. It must not allocate unless it fails. */
  int (*step)(dmdkit_backend_session* session, size_t place, size_t count, const float* const* rows, float* const* outputs,
              char* error, size_t error_size);
  /* A tensor of the state as snapshots have it, (steps, heads, width) of the first `steps` steps. */
  int (*read_state)(const dmdkit_backend_session* session, size_t tensor, size_t steps, float* values, char* error,
                    size_t error_size);
  int (*write_state)(dmdkit_backend_session* session, size_t tensor, size_t steps, const float* values, char* error,
                     size_t error_size);
} dmdkit_backend_vtable;

/* The plug-in's one symbol: its table, or null when it does not speak that version. */
typedef const dmdkit_backend_vtable* (*dmdkit_backend_entry_function)(uint32_t abi_version);

#ifdef __cplusplus
}
#endif

#endif /* DMDKIT_BACKEND_H_ */
