// SPDX-License-Identifier: GPL-2.0
/*
 * A model of iptables: the extension registers its targets, gets the options
 * that getopt finds for it, and refuses an option through exit_err, which does
 * not return. iptables exits there, but a fuzzer must go on, so exit_err uses
 * longjmp. That is why this file is C.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xtables.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#include "iptables.h"

static jmp_buf refusal;
static char *message;

/* Called by the extension to refuse an option. */
static void __attribute__((noreturn, format(printf, 2, 3)))
exit_err(enum xtables_exittype status, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	if (status != PARAMETER_PROBLEM || vasprintf(&message, format, list) < 0)
		abort();
	va_end(list);

	/*
	 * The extension leaks the text, since iptables is about to exit. Free it,
	 * since the fuzzer goes on to the next of some million inputs.
	 */
	if (strcmp(format, "%.*s") == 0) {
		va_start(list, format);
		(void)va_arg(list, int);
		free(va_arg(list, char *));
		va_end(list);
	}
	longjmp(refusal, 1);
}

static struct option orig_opts[] = {
	{ "protocol", required_argument, NULL, 'p' },
	{ }
};

static struct xtables_globals globals = {
	.program_name = "fuzz",
	.program_version = "0",
	.orig_opts = orig_opts,
	.exit_err = exit_err,
};

/* The registered targets, one for each family and revision. */
static struct xtables_target *targets;
static unsigned int target_count;
/* The options of iptables and of the extension, for IPv4 and IPv6, by revision. */
static struct option *opts[2][2];

/*
 * Replaces the function of libxtables, which registers only the targets of the
 * family that the program was started for. Called before main.
 */
void xtables_register_targets(struct xtables_target *target, unsigned int n)
{
	targets = target;
	target_count = n;
}

/* A small /etc/services, with names that contain dashes. */
static const struct {
	const char *name;
	const char *protocol;
	int port;
} services[] = {
	{ "ftp-data", "tcp", 20 },
	{ "http", "tcp", 80 },
	{ "shell", "tcp", 514 },
	{ "syslog", "udp", 514 },
	{ "who", "udp", 513 },
	{ "who", "tcp", 1513 },
	{ "a", "tcp", 1 },
	{ "a-b", "sctp", 2 },
	{ "b-c", "tcp", 3 },
	{ "c", "udp", 4 },
	{ "zero", "tcp", 0 },
};

/*
 * Replaces the function of libxtables, so that a run depends on no file of the
 * host and is faster. Like getservbyname, it returns the first service of the
 * protocol, or of any if that is NULL.
 */
int xtables_service_to_port(const char *name, const char *protocol)
{
	size_t i;

	for (i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
		if (strcmp(services[i].name, name) != 0)
			continue;
		if (!protocol || strcmp(services[i].protocol, protocol) == 0)
			return services[i].port;
	}
	return -1;
}

static struct xtables_target *find_target(struct which which)
{
	uint16_t family = which.ipv6 ? NFPROTO_IPV6 : NFPROTO_IPV4;
	size_t size = which.revision ? sizeof(struct xt_rustmasq_info_v1) :
				       sizeof(struct xt_rustmasq_info);
	unsigned int i;

	for (i = 0; i < target_count; i++) {
		if (targets[i].family == family && targets[i].revision == which.revision) {
			if (targets[i].size != size)
				abort();
			return &targets[i];
		}
	}
	abort();
}

/*
 * Allocates the target of a new rule as iptables does. No byte follows it, so
 * that AddressSanitizer finds accesses behind it.
 */
static struct xt_entry_target *new_target(const struct xtables_target *target)
{
	size_t size = sizeof(struct xt_entry_target) + target->size;
	struct xt_entry_target *t = calloc(1, size);

	t->u.target_size = size;
	strcpy(t->u.user.name, target->name);
	t->u.user.revision = target->revision;
	return t;
}

/* Allocates a new rule's entry, which has another type for each family. */
static void *new_entry(int ipv6)
{
	return calloc(1, ipv6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry));
}

static void set_protocol(void *entry, int ipv6, uint16_t protocol, bool inverted)
{
	struct ipt_entry *ip4 = entry;
	struct ip6t_entry *ip6 = entry;

	if (ipv6) {
		ip6->ipv6.proto = protocol;
		ip6->ipv6.flags |= IP6T_F_PROTO;
		ip6->ipv6.invflags = inverted ? IP6T_INV_PROTO : 0;
	} else {
		ip4->ip.proto = protocol;
		ip4->ip.invflags = inverted ? IPT_INV_PROTO : 0;
	}
}

/* Returns the name of getopt's result opt, or NULL if it is no option of the extension. */
static const char *option_name(const struct xtables_target *target, int opt)
{
	const struct option *option;

	for (option = target->extra_opts; option->name; option++)
		if (opt - (int)target->option_offset == option->val)
			return option->name;
	return NULL;
}

/*
 * Passes one option to the extension; returns false if the extension refused
 * it. Not inlined: longjmp makes local variables of the function that called
 * setjmp indeterminate, and the caller's must stay valid.
 */
static bool __attribute__((noinline))
parse_option(struct xtables_target *target, int opt, char **argv, bool inverted, void *entry)
{
	if (setjmp(refusal))
		return false;
	xtables_option_tpcall(opt, argv, inverted, target, entry);
	return true;
}

/* Calls the extension's final check; returns false if the extension refused the rule. */
static bool __attribute__((noinline)) final_check(struct xtables_target *target)
{
	if (setjmp(refusal))
		return false;
	xtables_option_tfcall(target);
	return true;
}

static void parse_options(struct xtables_target *target, const struct option *options,
			  int ipv6, void *entry, int argc, char **argv, struct outcome *outcome)
{
	struct given_option *given;
	bool inverted = false;
	struct given_option current = { };
	bool accepted = true;
	int opt;

	/* "-": report other words in their order, as option 1. ":": print no errors. */
	optind = 0;
	while (accepted && (opt = getopt_long(argc, argv, "-:p:", options, NULL)) != -1) {
		if (opt == 1 && strcmp(optarg, "!") == 0 && !inverted) {
			inverted = true;
			continue;
		}
		current.name = option_name(target, opt);
		if (opt == 'p') {
			current.protocol = strtoul(optarg, NULL, 0);
			current.protocol_inverted = inverted;
			set_protocol(entry, ipv6, current.protocol, inverted);
		} else if (!current.name || outcome->count == MAX_OPTIONS) {
			/* iptables would print an error and exit. */
			outcome->skipped++;
		} else {
			current.argument = optarg;
			current.inverted = inverted;
			given = &outcome->options[outcome->count++];
			*given = current;
			accepted = parse_option(target, opt, argv, inverted, entry);
			memcpy(given->rule, target->t->data, target->size);
		}
		inverted = false;
	}
	outcome->refused = !accepted || !final_check(target);
}

void iptables_parse(struct which which, int argc, char **argv, struct outcome *outcome)
{
	struct option **options = &opts[which.ipv6][which.revision];
	struct xtables_target *target = find_target(which);
	void *entry = new_entry(which.ipv6);

	if (!*options) {
		xtables_set_params(&globals);
		*options = xtables_merge_options(orig_opts, NULL, target->extra_opts,
						 &target->option_offset);
	}
	target->t = new_target(target);
	target->tflags = 0;
	if (target->init)
		target->init(target->t);

	message = NULL;
	outcome->count = 0;
	outcome->skipped = 0;
	parse_options(target, *options, which.ipv6, entry, argc, argv, outcome);
	outcome->message = message;

	free(target->t);
	target->t = NULL;
	free(entry);
}

/* Calls the extension's translation; commented: the rule has -m comment as well. */
static char *translate(const struct xtables_target *target, const void *entry,
		       const struct xt_entry_target *t, bool commented)
{
	struct xt_xlate_tg_params params = { .ip = entry, .target = t };
	struct xt_xlate *xl = xt_xlate_alloc(10240);
	char *text;

	if (commented)
		xt_xlate_add_comment(xl, "\"of the user\"");
	if (target->xlate(xl, &params) != 1)
		abort();
	if (asprintf(&text, "%s comment %s", xt_xlate_get(xl), xt_xlate_get_comment(xl)) < 0)
		abort();
	xt_xlate_free(xl);
	return text;
}

char *iptables_show(struct which which, enum callback callback, const uint8_t *rule)
{
	const struct xtables_target *target = find_target(which);
	struct xt_entry_target *t = new_target(target);
	void *entry = new_entry(which.ipv6);
	FILE *saved_stdout = stdout;
	char *text;
	size_t size;

	memcpy(t->data, rule, target->size);
	if (callback == TRANSLATE || callback == TRANSLATE_COMMENTED) {
		text = translate(target, entry, t, callback == TRANSLATE_COMMENTED);
		goto out;
	}
	stdout = open_memstream(&text, &size);
	switch (callback) {
	case HELP:
		target->help();
		break;
	case PRINT:
	case PRINT_NUMERIC:
		target->print(entry, t, callback == PRINT_NUMERIC);
		break;
	case SAVE:
		target->save(entry, t);
		break;
	case TRANSLATE:
	case TRANSLATE_COMMENTED:
		break;
	}
	fclose(stdout);
	stdout = saved_stdout;
out:
	if (memcmp(t->data, rule, target->size) != 0)
		abort();
	free(entry);
	free(t);
	return text;
}

void iptables_free(char *text)
{
	free(text);
}
