#include "textflag.h"

// Registers: the message words and constants that rounds take X0; the first state X1 (f, e, b, a) and X2 (h, g, d, c), the second X3 and
// X4; the last sixteen words of the schedule X5 to X8; X10 turns bytes around; X11 to X14 keep the states of before the block.

// FOUR does four rounds of both states with constants number i and the words w.
#define FOUR(i, w) \
	MOVOU       (i*16)(AX), X0; \
	PADDD       w, X0;          \
	SHA256RNDS2 X0, X1, X2;     \
	SHA256RNDS2 X0, X3, X4;     \
	PSHUFD      $0x0e, X0, X0;  \
	SHA256RNDS2 X0, X2, X1;     \
	SHA256RNDS2 X0, X4, X3

// NEXT replaces the oldest four words w0 by the four that follow w3.
#define NEXT(w0, w1, w2, w3) \
	SHA256MSG1 w1, w0;      \
	MOVO       w3, X9;      \
	PALIGNR    $4, w2, X9;  \
	PADDD      X9, w0;      \
	SHA256MSG2 w3, w0

#define READ(at, w) \
	MOVOU  at(SI), w; \
	PSHUFB X10, w

// func rounds(a, b *[8]uint32, p *byte, blocks int)
TEXT ·rounds(SB), NOSPLIT, $0-32
	MOVQ  a+0(FP), DI
	MOVQ  b+8(FP), DX
	MOVQ  p+16(FP), SI
	MOVQ  blocks+24(FP), CX
	LEAQ  constants<>(SB), AX
	MOVOU turn<>(SB), X10
	MOVOU (DI), X1
	MOVOU 16(DI), X2
	MOVOU (DX), X3
	MOVOU 16(DX), X4
	TESTQ CX, CX
	JZ    done

next:
	MOVO X1, X11
	MOVO X2, X12
	MOVO X3, X13
	MOVO X4, X14
	READ(0, X5)
	READ(16, X6)
	READ(32, X7)
	READ(48, X8)
	FOUR(0, X5)
	FOUR(1, X6)
	FOUR(2, X7)
	FOUR(3, X8)
	NEXT(X5, X6, X7, X8)
	FOUR(4, X5)
	NEXT(X6, X7, X8, X5)
	FOUR(5, X6)
	NEXT(X7, X8, X5, X6)
	FOUR(6, X7)
	NEXT(X8, X5, X6, X7)
	FOUR(7, X8)
	NEXT(X5, X6, X7, X8)
	FOUR(8, X5)
	NEXT(X6, X7, X8, X5)
	FOUR(9, X6)
	NEXT(X7, X8, X5, X6)
	FOUR(10, X7)
	NEXT(X8, X5, X6, X7)
	FOUR(11, X8)
	NEXT(X5, X6, X7, X8)
	FOUR(12, X5)
	NEXT(X6, X7, X8, X5)
	FOUR(13, X6)
	NEXT(X7, X8, X5, X6)
	FOUR(14, X7)
	NEXT(X8, X5, X6, X7)
	FOUR(15, X8)
	PADDD X11, X1
	PADDD X12, X2
	PADDD X13, X3
	PADDD X14, X4
	ADDQ  $64, SI
	DECQ  CX
	JNZ   next

done:
	MOVOU X1, (DI)
	MOVOU X2, 16(DI)
	MOVOU X3, (DX)
	MOVOU X4, 16(DX)
	RET

// func hasSHA() bool
TEXT ·hasSHA(SB), NOSPLIT, $0-1
	MOVB $0, ret+0(FP)
	XORL AX, AX
	XORL CX, CX
	CPUID
	CMPL AX, $7
	JLT  no
	MOVL $1, AX
	XORL CX, CX
	CPUID
	ANDL $0x80200, CX // bit 9 SSSE3, bit 19 SSE4.1
	CMPL CX, $0x80200
	JNE  no
	MOVL $7, AX
	XORL CX, CX
	CPUID
	SHRL $29, BX // bit 29 SHA
	ANDL $1, BX
	MOVB BX, ret+0(FP)

no:
	RET

DATA turn<>+0(SB)/8, $0x0405060700010203
DATA turn<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL turn<>(SB), RODATA|NOPTR, $16

// FIPS 180-4, section 4.2.2.
DATA constants<>+0(SB)/8, $0x71374491428a2f98
DATA constants<>+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA constants<>+16(SB)/8, $0x59f111f13956c25b
DATA constants<>+24(SB)/8, $0xab1c5ed5923f82a4
DATA constants<>+32(SB)/8, $0x12835b01d807aa98
DATA constants<>+40(SB)/8, $0x550c7dc3243185be
DATA constants<>+48(SB)/8, $0x80deb1fe72be5d74
DATA constants<>+56(SB)/8, $0xc19bf1749bdc06a7
DATA constants<>+64(SB)/8, $0xefbe4786e49b69c1
DATA constants<>+72(SB)/8, $0x240ca1cc0fc19dc6
DATA constants<>+80(SB)/8, $0x4a7484aa2de92c6f
DATA constants<>+88(SB)/8, $0x76f988da5cb0a9dc
DATA constants<>+96(SB)/8, $0xa831c66d983e5152
DATA constants<>+104(SB)/8, $0xbf597fc7b00327c8
DATA constants<>+112(SB)/8, $0xd5a79147c6e00bf3
DATA constants<>+120(SB)/8, $0x1429296706ca6351
DATA constants<>+128(SB)/8, $0x2e1b213827b70a85
DATA constants<>+136(SB)/8, $0x53380d134d2c6dfc
DATA constants<>+144(SB)/8, $0x766a0abb650a7354
DATA constants<>+152(SB)/8, $0x92722c8581c2c92e
DATA constants<>+160(SB)/8, $0xa81a664ba2bfe8a1
DATA constants<>+168(SB)/8, $0xc76c51a3c24b8b70
DATA constants<>+176(SB)/8, $0xd6990624d192e819
DATA constants<>+184(SB)/8, $0x106aa070f40e3585
DATA constants<>+192(SB)/8, $0x1e376c0819a4c116
DATA constants<>+200(SB)/8, $0x34b0bcb52748774c
DATA constants<>+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA constants<>+216(SB)/8, $0x682e6ff35b9cca4f
DATA constants<>+224(SB)/8, $0x78a5636f748f82ee
DATA constants<>+232(SB)/8, $0x8cc7020884c87814
DATA constants<>+240(SB)/8, $0xa4506ceb90befffa
DATA constants<>+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL constants<>(SB), RODATA|NOPTR, $256
