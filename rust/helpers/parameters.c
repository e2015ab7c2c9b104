// SPDX-License-Identifier: GPL-2.0
/*
 * Module parameters that users read in /sys/module/rustmasq/parameters. The
 * macro module! of Rust makes no parameter that sysfs shows.
 */
#include <linux/moduleparam.h>
#include <linux/sysfs.h>

#include "parameters.h"

atomic_long_t rustmasq_tftp_ignored = ATOMIC_LONG_INIT(0);

static int get_counter(char *buffer, const struct kernel_param *parameter)
{
	return sysfs_emit(buffer, "%lu\n", (unsigned long)atomic_long_read(parameter->arg));
}

static int set_counter(const char *value, const struct kernel_param *parameter)
{
	return -EPERM;
}

static const struct kernel_param_ops counter_ops = {
	.get = get_counter,
	.set = set_counter,
};

module_param_cb(tftp_ignored, &counter_ops, &rustmasq_tftp_ignored, 0444);
__MODULE_PARM_TYPE(tftp_ignored, "ulong");
MODULE_PARM_DESC(tftp_ignored,
		 "Datagrams of clients that the TFTP helper expected no answer to, because they are no requests (read only)");

unsigned int rustmasq_pools_max __ro_after_init = 256;

static int set_pools_max(const char *value, const struct kernel_param *parameter)
{
	return param_set_uint_minmax(value, parameter, 0, RUSTMASQ_POOLS_LIMIT);
}

static const struct kernel_param_ops pools_max_ops = {
	.get = param_get_uint,
	.set = set_pools_max,
};

module_param_cb(pools_max, &pools_max_ops, &rustmasq_pools_max, 0444);
__MODULE_PARM_TYPE(pools_max, "uint");
MODULE_PARM_DESC(pools_max,
		 "Crowded destinations of a namespace that get a pool of ports, from 0 to "
		 __stringify(RUSTMASQ_POOLS_LIMIT) " (256); others find ports by trying");

bool rustmasq_serves_masquerade __ro_after_init;

module_param_named(masquerade, rustmasq_serves_masquerade, bool, 0444);
MODULE_PARM_DESC(masquerade,
		 "Serve MASQUERADE of iptables and masquerade of nftables, too, in rules that are added from now on (off)");

unsigned int rustmasq_masquerade_cone __ro_after_init;

static int set_masquerade_cone(const char *value, const struct kernel_param *parameter)
{
	return param_set_uint_minmax(value, parameter, 0, RUSTMASQ_CONE_LIMIT);
}

static const struct kernel_param_ops masquerade_cone_ops = {
	.get = param_get_uint,
	.set = set_masquerade_cone,
};

module_param_cb(masquerade_cone, &masquerade_cone_ops, &rustmasq_masquerade_cone, 0444);
__MODULE_PARM_TYPE(masquerade_cone, "uint");
MODULE_PARM_DESC(masquerade_cone,
		 "Mappings of the rules that masquerade=1 serves: 0 none (0), 1 full cone, 2 address-restricted, 3 port-restricted");

unsigned int rustmasq_mappings_max __ro_after_init = 131072;

static int set_mappings_max(const char *value, const struct kernel_param *parameter)
{
	return param_set_uint_minmax(value, parameter, 0, RUSTMASQ_MAPPINGS_LIMIT);
}

static const struct kernel_param_ops mappings_max_ops = {
	.get = param_get_uint,
	.set = set_mappings_max,
};

module_param_cb(mappings_max, &mappings_max_ops, &rustmasq_mappings_max, 0444);
__MODULE_PARM_TYPE(mappings_max, "uint");
MODULE_PARM_DESC(mappings_max,
		 "Mappings of a namespace, from 0 to " __stringify(RUSTMASQ_MAPPINGS_LIMIT)
		 " (131072); further endpoints get ports as without mappings");

bool rustmasq_mappings_refresh_inbound __ro_after_init;

module_param_named(mappings_refresh_inbound, rustmasq_mappings_refresh_inbound, bool, 0444);
MODULE_PARM_DESC(mappings_refresh_inbound,
		 "Flows from outside keep a mapping also if the inside endpoint does not answer (off)");
