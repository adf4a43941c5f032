package twinsum

// fast says whether the processor has SHA, SSSE3 and SSE4.1.
var fast = hasSHA()

// rounds adds blocks of 64 bytes from p on to both states.
//
//go:noescape
func rounds(a, b *[8]uint32, p *byte, blocks int)

func hasSHA() bool
