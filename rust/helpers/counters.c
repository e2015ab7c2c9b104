// SPDX-License-Identifier: GPL-2.0
/*
 * Counters that users read as module parameters, in
 * /sys/module/rustmasq/parameters. The macro module! of Rust makes no parameter
 * that sysfs shows.
 */
#include <linux/moduleparam.h>
#include <linux/sysfs.h>

#include "counters.h"

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
