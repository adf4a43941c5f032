// What starter.c and starter_linux.go agree on. The Go side's types have the same layout; it checks their sizes.

#include <stdint.h>

#define STARTER "_SLIPWAY_STARTER" // set in the environment of a starter, and of nothing else

// Where a program's parts are in a child. Nothing else is: the program is linked to low addresses, and the rest is high.
#define STEPS_AT 0x1000000000
#define WORDS_AT 0x1010000000
#define TEXT_AT 0x1020000000

#define HANDLERS 3
#define ANY_ERROR 0x7ffffffe
#define FAILED 0x7fffffff // no error of the kernel's

// The first descriptor of a request is the socket to the child's parent.
enum { PROGRAM = 4, MAX_DESCRIPTORS = 64 };

enum kind { KIND_CALL, KIND_SET, KIND_CHECK, KIND_FAIL };

struct handler {
	int32_t error;
	int32_t to;
};

struct step {
	uint64_t number;
	uint64_t args[6];
	int32_t into;
	int32_t next;
	struct handler on[HANDLERS];
	uint8_t kind;
	uint8_t words; // bit i: args[i] is an index into memory and stands for what is there
};

// A request comes with descriptors: those that the child keeps, and after them others, named by their index.
struct request {
	uint64_t flags; // of clone3(2)
	uint64_t kept;
	uint64_t cgroup;
	uint64_t within, back; // pid namespaces; 0 for none
};

// A header is followed by the steps and by the text.
struct header {
	uint64_t steps, words, text;
};
