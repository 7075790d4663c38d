#include "hilum_j2k.h"

#include <openjpeg.h>
#include <stdio.h>
#include <string.h>

// A codestream in memory; at never exceeds size.
struct source {
	const uint8_t *data;
	size_t size, at;
};

static OPJ_SIZE_T source_read(void *buffer, OPJ_SIZE_T n, void *user)
{
	struct source *s = user;
	size_t left = s->size - s->at;
	if (left == 0)
		return (OPJ_SIZE_T)-1;
	if (n > left)
		n = left;
	memcpy(buffer, s->data + s->at, n);
	s->at += n;
	return n;
}

static OPJ_OFF_T source_skip(OPJ_OFF_T n, void *user)
{
	struct source *s = user;
	if (n < 0)
		return -1;
	if ((uint64_t)n > s->size - s->at)
		n = (OPJ_OFF_T)(s->size - s->at);
	s->at += (size_t)n;
	return n;
}

static OPJ_BOOL source_seek(OPJ_OFF_T at, void *user)
{
	struct source *s = user;
	if (at < 0 || (uint64_t)at > s->size)
		return OPJ_FALSE;
	s->at = (size_t)at;
	return OPJ_TRUE;
}

// The first message of the library is kept.
struct words {
	char *text;
	size_t size;
};

static void keep_message(const char *text, void *user)
{
	struct words *w = user;
	if (w->text[0] == 0)
		snprintf(w->text, w->size, "%s", text);
}

static void ignore_message(const char *text, void *user)
{
	(void)text;
	(void)user;
}

static int plausible(const opj_image_t *image, uint32_t columns, uint32_t rows)
{
	return image->numcomps == 1 && image->x1 - image->x0 == columns && image->y1 - image->y0 == rows &&
	       image->comps[0].w == columns && image->comps[0].h == rows &&
	       image->comps[0].prec >= 1 && image->comps[0].prec <= 16;
}

static int decode(opj_codec_t *codec, opj_stream_t *stream, opj_image_t **image,
		  uint32_t columns, uint32_t rows)
{
	opj_dparameters_t parameters;
	opj_set_default_decoder_parameters(&parameters);
	return opj_setup_decoder(codec, &parameters) &&
	       // A codestream that ends early is an error, not half an image.
	       opj_decoder_set_strict_mode(codec, OPJ_TRUE) &&
	       opj_read_header(stream, codec, image) && plausible(*image, columns, rows) &&
	       opj_decode(codec, stream, *image) && opj_end_decompress(codec, stream) &&
	       plausible(*image, columns, rows) && (*image)->comps[0].data != NULL;
}

int hilum_j2k_decode(const uint8_t *data, size_t size, uint32_t columns, uint32_t rows,
		     uint16_t *out, char *message, size_t message_size)
{
	struct source source = {data, size, 0};
	struct words words = {message, message_size};
	opj_image_t *image = NULL;
	int ok = 0;

	message[0] = 0;
	opj_codec_t *codec = opj_create_decompress(OPJ_CODEC_J2K);
	opj_stream_t *stream = opj_stream_default_create(OPJ_TRUE);
	if (codec && stream) {
		opj_stream_set_user_data(stream, &source, NULL);
		opj_stream_set_user_data_length(stream, size);
		opj_stream_set_read_function(stream, source_read);
		opj_stream_set_skip_function(stream, source_skip);
		opj_stream_set_seek_function(stream, source_seek);
		opj_set_error_handler(codec, keep_message, &words);
		opj_set_warning_handler(codec, ignore_message, NULL);
		opj_set_info_handler(codec, ignore_message, NULL);
		ok = decode(codec, stream, &image, columns, rows);
	}
	if (ok) {
		const OPJ_INT32 *samples = image->comps[0].data;
		size_t n = (size_t)columns * rows;
		for (size_t i = 0; i < n; i++)
			out[i] = (uint16_t)samples[i];
	}
	if (image)
		opj_image_destroy(image);
	if (stream)
		opj_stream_destroy(stream);
	if (codec)
		opj_destroy_codec(codec);
	return ok;
}
