/* SPDX-License-Identifier: GPL-2.0 */
/* A model of iptables that calls the extension; only ffi.rs uses it. */
#include <stdint.h>

#include "../../../../uapi/xt_RUSTMASQ.h"

#define MAX_OPTIONS 64

/* An option that was passed to the extension. */
struct given_option {
	/* The name in the extension's table of options. */
	const char *name;
	/* A pointer into argv, or NULL. */
	const char *argument;
	/* A "!" precedes the option. */
	int inverted;
	/* The protocol according to the command line so far. */
	uint16_t protocol;
	int protocol_inverted;
	/* The rule after the extension parsed the option. */
	uint8_t rule[sizeof(struct xt_rustmasq_info_v1)];
};

/* The result of parsing a command line. */
struct outcome {
	/* The number of options. */
	int count;
	struct given_option options[MAX_OPTIONS];
	/* The number of words that are neither known options nor arguments. */
	int skipped;
	/* The extension refused the last option. */
	int refused;
	/* The message of the refusal, or NULL. The caller must free it. */
	char *message;
};

/* The callbacks that print text. */
enum callback {
	HELP,	/* -j RUSTMASQ -h */
	PRINT,	/* -L */
	PRINT_NUMERIC,	/* -L -n */
	SAVE,	/* -S */
	TRANSLATE,	/* iptables-translate */
	TRANSLATE_COMMENTED,	/* iptables-translate with -m comment */
};

/*
 * A target: of a family and of a revision, whose rules are the first bytes of
 * a rule's array.
 */
struct which {
	int ipv6;
	int revision;
};

/* Parses a command line; argv ends with NULL. */
void iptables_parse(struct which which, int argc, char **argv, struct outcome *outcome);

/* Returns the text that a callback prints for a rule. The caller must free it. */
char *iptables_show(struct which which, enum callback callback, const uint8_t *rule);

/* Frees a string returned by the functions above. */
void iptables_free(char *text);
