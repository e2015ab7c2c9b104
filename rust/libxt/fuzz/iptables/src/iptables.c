// SPDX-License-Identifier: GPL-2.0
/*
 * What iptables does with an extension: it is registered, is given the options
 * that getopt finds for it, and may refuse one by a function that does not
 * return. C, for in Rust there is no way back from that: iptables exits there,
 * a fuzzer must go on.
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

static jmp_buf refused;
static char *message;

/* The extension's way out. */
static void __attribute__((noreturn, format(printf, 2, 3)))
refuse(enum xtables_exittype status, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	if (status != PARAMETER_PROBLEM || vasprintf(&message, format, list) < 0)
		abort();
	va_end(list);

	/*
	 * The extension leaks the text, for iptables is about to exit. Of a
	 * million refusals that would be too much.
	 */
	if (strcmp(format, "%.*s") == 0) {
		va_start(list, format);
		(void)va_arg(list, int);
		free(va_arg(list, char *));
		va_end(list);
	}
	longjmp(refused, 1);
}

static struct option original[] = {
	{ "protocol", required_argument, NULL, 'p' },
	{ }
};

static struct xtables_globals globals = {
	.program_name = "fuzz",
	.program_version = "0",
	.orig_opts = original,
	.exit_err = refuse,
};

/* One for each family. */
static struct xtables_target *targets;
static unsigned int count;
static struct option *options[2];

/*
 * In the place of libxtables', which takes those of the family alone that the
 * program was started for. Called before main.
 */
void xtables_register_targets(struct xtables_target *target, unsigned int n)
{
	targets = target;
	count = n;
}

static struct xtables_target *target_of(int ipv6)
{
	uint16_t family = ipv6 ? NFPROTO_IPV6 : NFPROTO_IPV4;
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (targets[i].family == family) {
			if (targets[i].size != sizeof(struct xt_rustmasq_info))
				abort();
			return &targets[i];
		}
	}
	abort();
}

/* Space for a target and for nothing behind it, as iptables makes it for a new rule. */
static struct xt_entry_target *new_rule(const struct xtables_target *target)
{
	size_t size = sizeof(struct xt_entry_target) + target->size;
	struct xt_entry_target *rule = calloc(1, size);

	rule->u.target_size = size;
	strcpy(rule->u.user.name, target->name);
	rule->u.user.revision = target->revision;
	return rule;
}

/* What a rule says apart from its target, in the form of the family. */
static void *new_entry(int ipv6)
{
	return calloc(1, ipv6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry));
}

static void set_protocol(void *entry, int ipv6, uint16_t protocol, bool inverted)
{
	struct ipt_entry *ipv4 = entry;
	struct ip6t_entry *other = entry;

	if (ipv6) {
		other->ipv6.proto = protocol;
		other->ipv6.flags |= IP6T_F_PROTO;
		other->ipv6.invflags = inverted ? IP6T_INV_PROTO : 0;
	} else {
		ipv4->ip.proto = protocol;
		ipv4->ip.invflags = inverted ? IPT_INV_PROTO : 0;
	}
}

/* The name that the extension's table has for what getopt met; NULL: it is not the extension's. */
static const char *name_of(const struct xtables_target *target, int met)
{
	const struct option *option;

	for (option = target->extra_opts; option->name; option++)
		if (met - (int)target->option_offset == option->val)
			return option->name;
	return NULL;
}

/* Gives one option to the extension. Not inlined: nothing of the caller's is lost on the way back. */
static bool __attribute__((noinline))
give(struct xtables_target *target, int met, char **argv, bool inverted, void *entry)
{
	if (setjmp(refused))
		return false;
	xtables_option_tpcall(met, argv, inverted, target, entry);
	return true;
}

static bool __attribute__((noinline)) final_check(struct xtables_target *target)
{
	if (setjmp(refused))
		return false;
	xtables_option_tfcall(target);
	return true;
}

static void read_options(struct xtables_target *target, int ipv6, void *entry, int argc, char **argv,
			 struct outcome *outcome)
{
	struct given *given;
	bool inverted = false;
	struct given now = { };
	bool go_on = true;
	int met;

	/* "-": what is no option comes in its place, as 1. ":": no messages. */
	optind = 0;
	while (go_on && (met = getopt_long(argc, argv, "-:p:", options[ipv6], NULL)) != -1) {
		if (met == 1 && strcmp(optarg, "!") == 0 && !inverted) {
			inverted = true;
			continue;
		}
		now.name = name_of(target, met);
		if (met == 'p') {
			now.protocol = strtoul(optarg, NULL, 0);
			now.protocol_inverted = inverted;
			set_protocol(entry, ipv6, now.protocol, inverted);
		} else if (!now.name || outcome->count == MOST_OPTIONS) {
			/* iptables would say so and exit. */
			outcome->skipped++;
		} else {
			now.argument = optarg;
			now.inverted = inverted;
			given = &outcome->given[outcome->count++];
			*given = now;
			go_on = give(target, met, argv, inverted, entry);
			memcpy(given->rule, target->t->data, sizeof(given->rule));
		}
		inverted = false;
	}
	outcome->refused = !go_on || !final_check(target);
}

void iptables_parse(int ipv6, int argc, char **argv, struct outcome *outcome)
{
	struct xtables_target *target = target_of(ipv6);
	void *entry = new_entry(ipv6);

	if (!options[ipv6]) {
		xtables_set_params(&globals);
		options[ipv6] = xtables_merge_options(original, NULL, target->extra_opts, &target->option_offset);
	}
	target->t = new_rule(target);
	target->tflags = 0;
	if (target->init)
		target->init(target->t);

	message = NULL;
	outcome->count = 0;
	outcome->skipped = 0;
	read_options(target, ipv6, entry, argc, argv, outcome);
	outcome->message = message;

	free(target->t);
	target->t = NULL;
	free(entry);
}

char *iptables_show(int ipv6, enum show what, const uint8_t *rule)
{
	const struct xtables_target *target = target_of(ipv6);
	struct xt_entry_target *t = new_rule(target);
	void *entry = new_entry(ipv6);
	FILE *terminal = stdout;
	char *text;
	size_t size;

	memcpy(t->data, rule, target->size);
	stdout = open_memstream(&text, &size);
	switch (what) {
	case HELP:
		target->help();
		break;
	case PRINT:
	case PRINT_NUMERIC:
		target->print(entry, t, what == PRINT_NUMERIC);
		break;
	case SAVE:
		target->save(entry, t);
		break;
	}
	fclose(stdout);
	stdout = terminal;
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
