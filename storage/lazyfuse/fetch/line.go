package fetch

import (
	"math"
	"time"
)

// line is what the way to a host was like lately. It decides how much to ask for beside what is wanted: what comes in the time of
// a round trip costs less than a round trip later, and what takes longer delays those who wait.
type line struct {
	trip time.Duration // from a question to its answer's header; 0 when not known
	rate float64       // bytes in a second, over all GETs
}

// measured takes in a GET that was answered after trip and took so long for its bytes, when so many GETs shared the line.
func (l *line) measured(trip time.Duration, bytes int64, took time.Duration, sharing int) {
	if trip <= 0 || took <= 0 || bytes < 64<<10 {
		return // tells nothing of the rate
	}
	rate := float64(bytes) / took.Seconds() * float64(max(1, sharing))
	if l.trip == 0 {
		l.trip, l.rate = trip, rate
		return
	}
	if trip < l.trip {
		l.trip = trip // more is the host's own time, or a connection's
	} else {
		l.trip += (trip - l.trip) / 16
	}
	l.rate += (rate - l.rate) / 4
}

// carries answers how much comes in a round trip, between a quarter of most and most, which it is for a line not known yet.
func (l *line) carries(most int64) int64 {
	if l.trip == 0 {
		return most
	}
	return int64(min(max(l.rate*l.trip.Seconds(), float64(most)/4), float64(most)))
}

// leastWindow is how many bytes may be on their way through any line.
const leastWindow = 512 << 10

// window answers how many bytes on their way keep the line busy. More of them only come later: all share it.
func (l *line) window() int64 {
	if l.trip == 0 {
		return math.MaxInt64
	}
	return max(leastWindow, int64(2*l.rate*l.trip.Seconds()))
}
