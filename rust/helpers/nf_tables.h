/* SPDX-License-Identifier: GPL-2.0 */
#ifndef RUSTMASQ_NF_TABLES
#define RUSTMASQ_NF_TABLES

#include <net/netfilter/nf_tables.h>

/*
 * Functions of nf_tables that are looked up by name, so that the module needs
 * nf_tables only where it serves statements of nftables.
 */
struct rustmasq_nf_tables {
	typeof(nft_register_expr) *register_expr;
	typeof(nft_unregister_expr) *unregister_expr;
	typeof(nft_parse_register_load) *parse_register_load;
	typeof(nft_dump_register) *dump_register;
	typeof(nft_chain_validate_dependency) *chain_validate_dependency;
	typeof(nft_chain_validate_hooks) *chain_validate_hooks;
};

#endif /* RUSTMASQ_NF_TABLES */
