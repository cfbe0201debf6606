/* The C interface of dmdkit (C11). Opaque handles, status codes, out-parameters; every open has its close.
 *
 * Structs that callers fill start with struct_size: initialise them with their _init function, so that a program built against
 * an older header keeps working with a newer library. Handles follow the thread rules of dmdkit/runtime.hpp: calls on one
 * handle are serialised, and all results are copied to the caller's buffers, so a handle may be shared by threads. */
#ifndef DMDKIT_DMDKIT_H_
#define DMDKIT_DMDKIT_H_

#include <stddef.h>
#include <stdint.h>

#include "dmdkit/version.h"

#if defined(__GNUC__)
#define DMDKIT_C_API __attribute__((visibility("default")))
#else
#define DMDKIT_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows with every incompatible change of this header. */
#define DMDKIT_ABI_VERSION 1

typedef enum dmdkit_status {
  DMDKIT_OK = 0,
  DMDKIT_INVALID_INPUT = 1,
  DMDKIT_BUNDLE_NOT_FOUND = 2,
  DMDKIT_BUNDLE_DAMAGED = 3,
  DMDKIT_BUNDLE_VERSION = 4,
  DMDKIT_FILE_UNREADABLE = 5,
  DMDKIT_FILE_UNWRITABLE = 6,
  DMDKIT_GRAPH_UNAVAILABLE = 7,
  DMDKIT_BACKEND_UNAVAILABLE = 8,
  DMDKIT_BACKEND_FAILED = 9,
  DMDKIT_OUT_OF_MEMORY = 10,
  DMDKIT_CALLBACK_FAILED = 11,
  DMDKIT_INTERNAL = 70
} dmdkit_status;

enum { DMDKIT_TEXT = 0, DMDKIT_AUDIO = 1, DMDKIT_VISION = 2, DMDKIT_MODALITIES = 3, DMDKIT_EDGES = 6 };

typedef struct dmdkit_runtime dmdkit_runtime;

/* Pointers are read during dmdkit_open only; null means the default. */
typedef struct dmdkit_options {
  size_t struct_size;
  const char* device;            /* auto, cpu or cuda */
  const char* graph;             /* a precision or a full name; null: the preferred one that passed parity */
  int threads;                   /* inside one prediction, 1 */
  uint64_t deadline_us;          /* slower predictions count as deadline misses; 0: no deadline */
  int preload_explain;           /* 1: open the explain graph at once */
  int spin;                      /* whether idle worker threads spin: 1, 0, or -1 for the backend's default */
  const char* affinity;          /* processors of the worker threads, "1;2" */
  const char* backend;           /* onnxruntime */
  const char* backend_directory; /* where libdmdkit_BACKEND.so is looked for first */
} dmdkit_options;

/* Raw features, sample first, then step, then feature. A modality is absent when its bit is set in `absent`. In place of text
 * features, where the bundle has a text encoder, `words` or `token_ids` hold one entry for each sample; data[DMDKIT_TEXT] is
 * then null. */
typedef struct dmdkit_inputs {
  size_t struct_size;
  size_t batch;
  const float* data[DMDKIT_MODALITIES];
  size_t count[DMDKIT_MODALITIES]; /* values at data, batch * steps * features */
  uint32_t absent;                 /* 1u << DMDKIT_AUDIO */
  const char* const* words;        /* sentences in UTF-8; null: none */
  const size_t* word_bytes;        /* of each; null: each ends with a zero byte */
  const int64_t* const* token_ids; /* ids of each sentence, with or without padding; null: none */
  const size_t* token_counts;      /* how many ids each has */
} dmdkit_inputs;

typedef struct dmdkit_input_info {
  size_t struct_size;
  const char* name; /* lives as long as the runtime */
  size_t steps;
  size_t features;
  int may_be_absent;
} dmdkit_input_info;

typedef struct dmdkit_prediction {
  size_t struct_size;
  double latency_ms;
  int deadline_missed;
  /* Share of values outside the training range, in the sample where it is largest, where that is worth a look; else 0. */
  double out_of_range[DMDKIT_MODALITIES];
  size_t truncated; /* sentences that were longer than the text encoder reads, and cut */
} dmdkit_prediction;

/* Caller's buffers of explain; a null pointer leaves that output out. Counts are in values and must fit exactly. */
typedef struct dmdkit_explanation {
  size_t struct_size;
  float* score; /* batch * outputs */
  size_t score_count;
  float* logit_homo; /* batch * 3 * outputs */
  size_t logit_homo_count;
  float* logit_hetero;
  size_t logit_hetero_count;
  float* edges_homo; /* batch * 6; untouched for a bundle without GD-Units */
  size_t edges_homo_count;
  float* edges_hetero;
  size_t edges_hetero_count;
  double latency_ms;
} dmdkit_explanation;

typedef struct dmdkit_stats {
  size_t struct_size;
  uint64_t count;
  double p50_ms;
  double p90_ms;
  double p99_ms;
  double max_ms;
  uint64_t deadline_misses;
  uint64_t out_of_range;
  uint64_t truncated; /* sentences that predict and explain cut */
} dmdkit_stats;

/* A stream over an opened runtime: the exact answer at every step for the price of one step. It keeps what it needs of the
 * runtime, which may be closed before it. */
typedef struct dmdkit_stream dmdkit_stream;

enum { DMDKIT_FILLED_NONE = 0, DMDKIT_FILLED_HOLD = 1, DMDKIT_FILLED_ABSENT = 2 };

/* As StreamOptions of dmdkit/stream.hpp; null means the default. */
typedef struct dmdkit_stream_options {
  size_t struct_size;
  const char* past_limit;                 /* stop or window */
  const char* missing[DMDKIT_MODALITIES]; /* error, hold or absent */
  double step_s;                          /* seconds between steps; 0: times are only checked for their order */
  double tolerance_s;                     /* how far a time may be from its step's; negative: half a step */
} dmdkit_stream_options;

/* New steps, step first, then feature. */
typedef struct dmdkit_steps {
  size_t struct_size;
  size_t count;
  const float* data[DMDKIT_MODALITIES];
  size_t values[DMDKIT_MODALITIES]; /* at data, count * features */
  uint32_t missing;                 /* 1u << DMDKIT_AUDIO: not there in these steps */
  uint32_t timed;                   /* likewise: has a time */
  double time_s[DMDKIT_MODALITIES];
} dmdkit_steps;

/* Caller's buffers, as in dmdkit_explanation, but a larger one is not refused; then what a push says. */
typedef struct dmdkit_step_answer {
  size_t struct_size;
  float* score; /* steps * outputs */
  size_t score_count;
  float* logit_hetero; /* steps * 3 * outputs */
  size_t logit_hetero_count;
  float* edges_hetero; /* steps * 6; untouched for a bundle without GD-Units */
  size_t edges_hetero_count;
  size_t count;   /* of the newest pushed steps that have an answer, oldest first in the buffers; 0 at the start of a stream */
  size_t steps;   /* how many of the newest steps the newest answer rests on */
  uint64_t heard; /* steps taken since the last reset */
  int filled[DMDKIT_MODALITIES];
  double latency_ms;
  double out_of_range[DMDKIT_MODALITIES]; /* of the steps the newest answer rests on, as in dmdkit_prediction */
} dmdkit_step_answer;

DMDKIT_C_API void dmdkit_options_init(dmdkit_options* options);
DMDKIT_C_API void dmdkit_inputs_init(dmdkit_inputs* inputs);
DMDKIT_C_API void dmdkit_input_info_init(dmdkit_input_info* info);
DMDKIT_C_API void dmdkit_prediction_init(dmdkit_prediction* prediction);
DMDKIT_C_API void dmdkit_explanation_init(dmdkit_explanation* explanation);
DMDKIT_C_API void dmdkit_stats_init(dmdkit_stats* stats);
DMDKIT_C_API void dmdkit_stream_options_init(dmdkit_stream_options* options);
DMDKIT_C_API void dmdkit_steps_init(dmdkit_steps* steps);
DMDKIT_C_API void dmdkit_step_answer_init(dmdkit_step_answer* answer);

/* The library's version and DMDKIT_ABI_VERSION, to compare with the header's. */
DMDKIT_C_API const char* dmdkit_version(void);
DMDKIT_C_API uint32_t dmdkit_abi_version(void);

/* What a code means in general; never null. */
DMDKIT_C_API const char* dmdkit_status_message(dmdkit_status status);

/* What the last failed call of this thread said: expected, found, what to do next. Valid until the thread's next call. */
DMDKIT_C_API const char* dmdkit_last_error(void);

/* Opens a bundle; *runtime is null on failure. */
DMDKIT_C_API dmdkit_status dmdkit_open(const char* path, const dmdkit_options* options, dmdkit_runtime** runtime);

/* Releases a runtime; null is allowed. No other call on it may be running or follow. */
DMDKIT_C_API void dmdkit_close(dmdkit_runtime* runtime);

DMDKIT_C_API dmdkit_status dmdkit_get_input(const dmdkit_runtime* runtime, int modality, dmdkit_input_info* info);
DMDKIT_C_API size_t dmdkit_output_count(const dmdkit_runtime* runtime);
DMDKIT_C_API const char* dmdkit_graph(const dmdkit_runtime* runtime);
DMDKIT_C_API const char* dmdkit_backend(const dmdkit_runtime* runtime);

/* What reads words and what runs that, once some came; "" before. */
DMDKIT_C_API const char* dmdkit_text_graph(const dmdkit_runtime* runtime);
DMDKIT_C_API const char* dmdkit_text_backend(const dmdkit_runtime* runtime);

/* Writes batch * dmdkit_output_count values to score; prediction may be null. */
DMDKIT_C_API dmdkit_status dmdkit_predict(dmdkit_runtime* runtime, const dmdkit_inputs* inputs, float* score,
                                          size_t score_count, dmdkit_prediction* prediction);
DMDKIT_C_API dmdkit_status dmdkit_explain(dmdkit_runtime* runtime, const dmdkit_inputs* inputs,
                                          dmdkit_explanation* explanation);

/* Replays the golden samples; *passed is 1 or 0. */
DMDKIT_C_API dmdkit_status dmdkit_self_check(dmdkit_runtime* runtime, int every_graph, int* passed);

DMDKIT_C_API dmdkit_status dmdkit_get_stats(const dmdkit_runtime* runtime, dmdkit_stats* stats);

/* Opens a stream; options may be null; *stream is null on failure. */
DMDKIT_C_API dmdkit_status dmdkit_stream_open(dmdkit_runtime* runtime, const dmdkit_stream_options* options,
                                              dmdkit_stream** stream);

/* Releases a stream; null is allowed. No other call on it may be running or follow. */
DMDKIT_C_API void dmdkit_stream_close(dmdkit_stream* stream);

/* Steps that one answer can rest on; what the answers mean where that needs saying, else an empty text. */
DMDKIT_C_API size_t dmdkit_stream_limit(const dmdkit_stream* stream);
DMDKIT_C_API const char* dmdkit_stream_note(const dmdkit_stream* stream);

/* Takes steps; answer may be null. A failure leaves what was pushed before as it was. */
DMDKIT_C_API dmdkit_status dmdkit_stream_push(dmdkit_stream* stream, const dmdkit_steps* steps, dmdkit_step_answer* answer);
DMDKIT_C_API dmdkit_status dmdkit_stream_reset(dmdkit_stream* stream);

/* Writes the state to bytes, of which *size are there, and sets *size to what it takes; bytes may be null to ask for that. */
DMDKIT_C_API dmdkit_status dmdkit_stream_snapshot(const dmdkit_stream* stream, void* bytes, size_t* size);
DMDKIT_C_API dmdkit_status dmdkit_stream_restore(dmdkit_stream* stream, const void* bytes, size_t size);

#ifdef __cplusplus
}
#endif

#endif /* DMDKIT_DMDKIT_H_ */
