/* The C interface: opens a bundle, predicts once, shows what a failure looks like.   predict_once_c BUNDLE */
#include <stdio.h>
#include <stdlib.h>

#include "dmdkit/dmdkit.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: predict_once_c BUNDLE\n");
    return 1;
  }
  dmdkit_options options;
  dmdkit_options_init(&options);
  options.deadline_us = 20000;
  dmdkit_runtime* runtime = NULL;
  dmdkit_status status = dmdkit_open(argv[1], &options, &runtime);
  if (status != DMDKIT_OK) {
    fprintf(stderr, "%s: %s\n", dmdkit_status_message(status), dmdkit_last_error());
    return 1;
  }

  dmdkit_inputs inputs;
  dmdkit_inputs_init(&inputs);
  float* features[DMDKIT_MODALITIES] = {NULL, NULL, NULL};
  for (int i = 0; i < DMDKIT_MODALITIES; ++i) {
    dmdkit_input_info info;
    dmdkit_input_info_init(&info);
    status = dmdkit_get_input(runtime, i, &info);
    if (status != DMDKIT_OK) break;
    inputs.count[i] = info.steps * info.features;
    features[i] = malloc(inputs.count[i] * sizeof(float));
    if (features[i] == NULL) abort();
    for (size_t j = 0; j < inputs.count[i]; ++j) features[i][j] = 0.1F;
    inputs.data[i] = features[i];
  }

  float score[16];
  size_t outputs = dmdkit_output_count(runtime);
  dmdkit_prediction prediction;
  dmdkit_prediction_init(&prediction);
  if (status == DMDKIT_OK && outputs <= 16) {
    status = dmdkit_predict(runtime, &inputs, score, outputs, &prediction);
  }
  if (status == DMDKIT_OK) {
    printf("%s: score %.4f in %.2f ms\n", dmdkit_graph(runtime), score[0], prediction.latency_ms);
  } else {
    fprintf(stderr, "%s: %s\n", dmdkit_status_message(status), dmdkit_last_error());
  }
  for (int i = 0; i < DMDKIT_MODALITIES; ++i) free(features[i]);
  dmdkit_close(runtime);
  return status == DMDKIT_OK ? 0 : 1;
}
