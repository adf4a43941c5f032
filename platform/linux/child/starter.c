//go:build linux && cgo

// A starter: the process that children are born of (Starter in starter_linux.go). It is this program, executed anew, which never
// comes to Go: it goes on here, before main, and ends here. So it has next to no memory, which is what a fork costs.

#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "starter.h"

enum { CONTROL = 3 }; // the only descriptor of a starter's but the standard ones; those of a request come after it

// call is a system call that answers -errno.
static long call(long number, const uint64_t *a) {
	long r = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	return r == -1 ? -errno : r;
}

// perform runs one step: a result, or -errno.
static long perform(const struct step *s, uint64_t *words) {
	uint64_t a[6];
	for (int i = 0; i < 6; i++)
		a[i] = s->words >> i & 1 ? words[s->args[i]] : s->args[i];
	switch (s->kind) {
	case KIND_SET:
		return (long)a[0];
	case KIND_CHECK:
		return (a[0] & a[1]) == a[2] ? 0 : -EINVAL;
	case KIND_FAIL:
		return -FAILED;
	}
	return call((long)s->number, a);
}

// interpret runs a program to its end, or tells where it failed.
static void interpret(const struct step *steps, uint64_t count, uint64_t *words) {
	uint64_t failure = 0;
	for (uint64_t i = 0; i < count;) {
		const struct step *s = &steps[i];
		long r = perform(s, words);
		int64_t next = -1;
		if (s->kind == KIND_SET || r >= 0) {
			if (s->into >= 0)
				words[s->into] = (uint64_t)r;
			next = s->next;
		} else {
			for (int j = 0; j < HANDLERS && next < 0; j++)
				if (s->on[j].error == -r || s->on[j].error == ANY_ERROR)
					next = s->on[j].to;
		}
		if (next < 0) {
			failure = (uint64_t)-r << 32 | i;
			break;
		}
		i = (uint64_t)next;
	}
	send(PROGRAM, &failure, sizeof failure, MSG_NOSIGNAL);
	_exit(255);
}

// hear reads all of size, or ends the child: its parent is gone.
static void hear(void *to, size_t size) {
	while (size > 0) {
		ssize_t n = read(PROGRAM, to, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(255);
		to = (char *)to + n;
		size -= (size_t)n;
	}
}

// room makes memory that is zero at an address.
static void *room(uint64_t at, uint64_t size) {
	void *p = mmap((void *)at, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
	if (p != (void *)at)
		_exit(254);
	return p;
}

// child is what is born: it hears its program and runs it.
static void child(uint64_t kept) {
	close(CONTROL);
	syscall(SYS_close_range, CONTROL + 1 + kept, ~0U, 0);
	struct header h;
	hear(&h, sizeof h);
	struct step *steps = room(STEPS_AT, h.steps * sizeof(struct step));
	uint64_t *words = room(WORDS_AT, h.words * sizeof(uint64_t));
	char *text = room(TEXT_AT, h.text);
	hear(steps, h.steps * sizeof(struct step));
	hear(text, h.text);
	interpret(steps, h.steps, words);
}

// bear makes one child, which is not ours but our parent's: its pid, or -errno.
static int64_t bear(const struct request *r) {
	struct clone_args args = {.flags = r->flags | CLONE_PARENT};
	if (r->flags & CLONE_INTO_CGROUP)
		args.cgroup = CONTROL + 1 + r->cgroup;
	if (r->within && setns(CONTROL + 1 + (int)r->within, CLONE_NEWPID) != 0)
		return -errno;
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		child(r->kept);
	int64_t result = pid < 0 ? -errno : pid;
	if (r->within && setns(CONTROL + 1 + (int)r->back, CLONE_NEWPID) != 0)
		_exit(253); // all that came after would be born there
	return result;
}

static void serve(void) {
	struct request r;
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	} rights;
	for (;;) {
		struct iovec data = {&r, sizeof r};
		struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
		ssize_t n = recvmsg(CONTROL, &m, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof r || m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
			_exit(n == 0 ? 0 : 252); // nobody is there any more
		int64_t result = bear(&r);
		syscall(SYS_close_range, CONTROL + 1, ~0U, 0);
		send(CONTROL, &result, sizeof result, MSG_NOSIGNAL);
	}
}

__attribute__((constructor)) static void starter(void) {
	if (getenv(STARTER) == NULL)
		return;
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NAME, "slipway-starter", 0, 0, 0);
	// Signals that our parent ignores would be ignored by containers too. The C library's own call leaves out those it uses itself.
	static const uint64_t defaults[4]; // struct sigaction of the kernel
	for (int s = 1; s < NSIG; s++)
		syscall(SYS_rt_sigaction, s, defaults, NULL, sizeof(uint64_t));
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	syscall(SYS_close_range, CONTROL + 1, ~0U, 0);
	serve();
}
