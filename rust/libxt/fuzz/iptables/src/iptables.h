/* SPDX-License-Identifier: GPL-2.0 */
/* iptables, as far as the extension can tell. For lib.rs alone. */
#include <stdint.h>

#include "../../../../uapi/xt_RUSTMASQ.h"

#define MAX_OPTIONS 64

/* An option that the extension was given. */
struct given_option {
	/* Its name in the extension's own table. */
	const char *name;
	/* Within argv, or NULL. */
	const char *argument;
	/* "!" stood before it. */
	int inverted;
	/* What -p had said by then. */
	uint16_t protocol;
	int protocol_inverted;
	/* The rule after it. */
	uint8_t rule[sizeof(struct xt_rustmasq_info)];
};

struct outcome {
	int count;
	struct given_option options[MAX_OPTIONS];
	/* Words that are for nobody here; passed over. */
	int skipped;
	/* The extension refused the last option. */
	int refused;
	/* Why; to be freed. */
	char *message;
};

/* What can be shown, and for what. */
enum callback {
	HELP,	/* -j RUSTMASQ -h */
	PRINT,	/* -L */
	PRINT_NUMERIC,	/* -L -n */
	SAVE,	/* -S */
};

/* Reads a command line; argv ends with NULL. */
void iptables_parse(int ipv6, int argc, char **argv, struct outcome *outcome);

/* What the extension has to say of a rule; to be freed. */
char *iptables_show(int ipv6, enum callback callback, const uint8_t *rule);

void iptables_free(char *text);
