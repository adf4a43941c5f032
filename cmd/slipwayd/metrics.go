package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/shim"
)

// metricsTime is how long may be asked for the numbers of one scrape.
const metricsTime = 10 * time.Second

// serveMetrics answers Prometheus at http://address/metrics until close is called. It tells names of namespaces to whoever can connect.
func serveMetrics(address string, eng *engine.Engine, log *slog.Logger) (close func() error, at net.Addr, err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot serve metrics: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{eng, log})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * metricsTime}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: metricsTime, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return func() error {
		err := server.Close()
		if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	}, l.Addr(), nil
}

// collector makes metrics of what the engine tells, at each scrape.
type collector struct {
	engine *engine.Engine
	log    *slog.Logger
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("slipway_"+name, help, labels, nil)
}

var (
	buildInfo      = describe("build_info", "The daemon's version.", "version")
	containerCount = describe("containers", "Containers.", "namespace")
	imageCount     = describe("images", "Names of images.", "namespace")
	taskCount      = describe("tasks", "Tasks.", "namespace", "status")
	pullCount      = describe("pulls_total", "Pulls that ended.", "result")
	pullsRunning   = describe("pulls_running", "Pulls that are under way.")
	gcRuns         = describe("gc_runs_total", "Garbage collections.", "result")
	gcRemoved      = describe("gc_removed_total", "What garbage collection removed.", "kind")
	gcSeconds      = describe("gc_seconds_total", "Time that garbage collection took.")
	lazyLayers     = describe("lazy_layers", "Lazily pulled layers that are served, by kind of index; arrived are those that are here.", "index", "state")
	lazyFiles      = describe("lazy_files_bytes", "Bytes of all files of layers that are not here.")
	lazyFailing    = describe("lazy_layers_failing", "Layers that have not arrived when that was tried.")
	lazyServing    = describe("lazy_server_up", "Whether the FUSE server answers.")
	lazyFetched    = describe("lazy_fetched_bytes_total", "Bytes of blobs of lazy layers that were fetched; demand and profile since the FUSE server started.", "cause")
	lazyRequests   = describe("lazy_requests_total", "Requests of the FUSE server to registries.")
	lazyFailures   = describe("lazy_request_failures_total", "Requests of the FUSE server to registries that failed.")
	profileCount   = describe("lazy_start_profiles", "Start profiles that are kept.")
	profileBytes   = describe("lazy_start_profiles_bytes", "Bytes of start profiles that are kept.")
	profileUses    = describe("lazy_start_profile_uses_total", "Starts that were recorded into a profile; pulls and starts for which one was replayed.", "use")
	cacheBytes     = describe("lazy_cache_bytes", "Bytes in the cache of lazily pulled files.", "state")
	cacheEvicted   = describe("lazy_cache_evicted_total", "Contents that were removed from the cache to make room.")
	cacheRefused   = describe("lazy_cache_refused_total", "Writes that found no room in the cache.")
)

var taskStatus = map[shim.Status]string{
	shim.Unknown: "unknown", shim.Created: "created", shim.Running: "running", shim.Stopped: "stopped", shim.Paused: "paused", shim.Pausing: "pausing",
}

// Describe implements prometheus.Collector. Without descriptions the metrics are not checked when they are registered, since which there
// are depends on the drivers.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), metricsTime)
	defer cancel()
	m, err := c.engine.Metrics(ctx)
	if err != nil {
		c.log.Warn("cannot collect metrics", "err", err)
		to <- prometheus.NewInvalidMetric(buildInfo, err)
		return
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	total := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(buildInfo, 1, version)
	for ns, n := range m.Containers {
		gauge(containerCount, n, ns)
	}
	for ns, n := range m.Images {
		gauge(imageCount, n, ns)
	}
	for ns, tasks := range m.Tasks {
		for status, n := range tasks {
			gauge(taskCount, n, ns, taskStatus[status])
		}
	}
	total(pullCount, float64(m.Pulls.Done), "done")
	total(pullCount, float64(m.Pulls.Failed), "failed")
	gauge(pullsRunning, m.Pulls.Running)
	total(gcRuns, float64(m.GC.Runs-m.GC.Failed), "done")
	total(gcRuns, float64(m.GC.Failed), "failed")
	total(gcRemoved, float64(m.GC.Records), "records")
	total(gcRemoved, float64(m.GC.Blobs), "blobs")
	total(gcSeconds, m.GC.Time.Seconds())
	if m.Lazy != nil {
		collectLazy(m.Lazy, gauge, total)
	}
}

func collectLazy(m *engine.LazyMetrics, gauge func(*prometheus.Desc, int64, ...string), total func(*prometheus.Desc, float64, ...string)) {
	for kind, n := range m.Layers {
		gauge(lazyLayers, n, kind, "lazy")
	}
	gauge(lazyLayers, m.Arrived, "", "arrived")
	gauge(lazyFiles, m.FileBytes)
	gauge(lazyFailing, m.Failing)
	total(lazyFetched, float64(m.BackgroundBytes), "background")
	gauge(profileCount, m.Profiles.Kept)
	gauge(profileBytes, m.Profiles.Bytes)
	total(profileUses, float64(m.Profiles.Recorded), "record")
	total(profileUses, float64(m.Profiles.Replayed), "replay")
	if !m.Serving {
		gauge(lazyServing, 0)
		return
	}
	gauge(lazyServing, 1)
	s := m.Stats
	total(lazyFetched, float64(s.DemandBytes), "demand")
	total(lazyFetched, float64(s.ProfileBytes), "profile")
	total(lazyRequests, float64(s.Requests))
	total(lazyFailures, float64(s.Failures))
	gauge(cacheBytes, s.CacheBytes-s.CacheIdle, "needed")
	gauge(cacheBytes, s.CacheIdle, "idle")
	total(cacheEvicted, float64(s.CacheEvicted))
	total(cacheRefused, float64(s.CacheRefused))
}
