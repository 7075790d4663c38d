// Decoding of one grey JPEG 2000 codestream in memory with OpenJPEG.
#include <stddef.h>
#include <stdint.h>

// hilum_j2k_decode decodes the codestream of columns × rows pixels to out and
// returns 1, or returns 0 with a sentence in message (message_size bytes, ended
// by zero).
int hilum_j2k_decode(const uint8_t *data, size_t size, uint32_t columns, uint32_t rows,
		     uint16_t *out, char *message, size_t message_size);
