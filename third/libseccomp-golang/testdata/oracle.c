/* The oracle of the tests: builds filters with the C libseccomp. It reads commands, one a line:
 *   new ACTION | arch TOKEN | native 0 (drops the native one) | badarch ACTION | rule ACTION NAME [ARG OP A B]... | export
 *   resolve TOKEN NAME
 * and answers: resolve with a number; export with the number of instructions and each as "code jt jf k"; rule with its error.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/filter.h>

static scmp_filter_ctx ctx;

static void export_bpf(void) {
	FILE *f = tmpfile();
	int rc = seccomp_export_bpf(ctx, fileno(f));
	if (rc) {
		printf("error %d\n", rc);
		fclose(f);
		return;
	}
	rewind(f);
	struct sock_filter i;
	fseek(f, 0, SEEK_END);
	printf("%ld\n", ftell(f) / (long)sizeof i);
	rewind(f);
	while (fread(&i, sizeof i, 1, f) == 1)
		printf("%u %u %u %u\n", i.code, i.jt, i.jf, i.k);
	fclose(f);
}

int main(void) {
	char line[4096];
	while (fgets(line, sizeof line, stdin)) {
		char *cmd = strtok(line, " \n"), *a = strtok(NULL, " \n");
		if (!cmd)
			continue;
		if (!strcmp(cmd, "new")) {
			if (ctx)
				seccomp_release(ctx);
			ctx = seccomp_init(strtoul(a, NULL, 0));
			printf("%d\n", ctx ? 0 : -1);
		} else if (!strcmp(cmd, "optimize")) {
			printf("%d\n", seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, strtoul(a, NULL, 0)));
		} else if (!strcmp(cmd, "badarch")) {
			printf("%d\n", seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, strtoul(a, NULL, 0)));
		} else if (!strcmp(cmd, "arch")) {
			printf("%d\n", seccomp_arch_add(ctx, strtoul(a, NULL, 0)));
		} else if (!strcmp(cmd, "native")) {
			printf("%d\n", seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE));
		} else if (!strcmp(cmd, "resolve")) {
			printf("%d\n", seccomp_syscall_resolve_name_arch(strtoul(a, NULL, 0), strtok(NULL, " \n")));
		} else if (!strcmp(cmd, "rule")) {
			struct scmp_arg_cmp args[8];
			int n = 0;
			char *name = strtok(NULL, " \n"), *t;
			while (n < 8 && (t = strtok(NULL, " \n"))) {
				args[n].arg = strtoul(t, NULL, 0);
				args[n].op = strtoul(strtok(NULL, " \n"), NULL, 0);
				args[n].datum_a = strtoull(strtok(NULL, " \n"), NULL, 0);
				args[n].datum_b = strtoull(strtok(NULL, " \n"), NULL, 0);
				n++;
			}
			printf("%d\n", seccomp_rule_add_array(ctx, strtoul(a, NULL, 0), seccomp_syscall_resolve_name(name), n, args));
		} else if (!strcmp(cmd, "export")) {
			export_bpf();
		}
		fflush(stdout);
	}
	return 0;
}
