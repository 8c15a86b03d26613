package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	namespace = "edgehub"
	// scrapeTimeout bounds one reading of the metrics.
	scrapeTimeout = 5 * time.Second
	// scrapesAtOnce bounds how many readings go on side by side.
	scrapesAtOnce = 3
)

// gauges are the hub's metrics. Every label is from a closed set (P7): none
// names a box or a device. How far each box is behind is what `edgehub boxes`
// says; here is the largest.
type gauges struct {
	registry      *prometheus.Registry
	commitSeconds prometheus.Histogram
	commitRecords prometheus.Histogram
}

func newGauges(b cli.Build) *gauges {
	g := &gauges{
		registry: prometheus.NewRegistry(),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "commit_seconds", Help: "Time of a transaction with its fsync.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}),
		commitRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "commit_records", Help: "Records applied in a transaction.",
			Buckets: []float64{0, 1, 10, 100, 1000, 10_000, 100_000},
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "The version, as a label.",
		ConstLabels: prometheus.Labels{"version": b.Version, "goversion": b.Go},
	})
	info.Set(1)
	g.registry.MustRegister(g.commitSeconds, g.commitRecords, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return g
}

// commit is a hub.Config's OnCommit.
func (g *gauges) commit(took time.Duration, records int) {
	g.commitSeconds.Observe(took.Seconds())
	g.commitRecords.Observe(float64(records))
}

// watched is what the metrics are read from.
type watched struct {
	figures func() hub.Figures
	status  func() hub.Status
	boxes   func(context.Context) (boxSum, error)
}

// boxSum sums up all boxes.
type boxSum struct {
	boxes, online, app int
	maxLag             map[edgeclaim.Lane]uint64
}

// sumBoxes reads all boxes, a page at a time.
func sumBoxes(ctx context.Context, db *registry.DB) (boxSum, error) {
	sum := boxSum{maxLag: map[edgeclaim.Lane]uint64{}}
	for _, lane := range edgeclaim.Lanes() {
		sum.maxLag[lane] = 0
	}
	for f := (registry.BoxFilter{Limit: pageRows}); ; {
		page, err := db.Boxes(ctx, f)
		if err != nil {
			return sum, err
		}
		for i := range page {
			sum.add(&page[i])
		}
		if len(page) < pageRows {
			return sum, nil
		}
		f.After = page[len(page)-1].Box
	}
}

func (s *boxSum) add(b *registry.Box) {
	s.boxes++
	if b.Online {
		s.online++
	}
	if b.App {
		s.app++
	}
	for lane, state := range b.Lanes {
		s.maxLag[lane] = max(s.maxLag[lane], state.Lag)
	}
}

// handler serves the metrics. It is called once.
func (g *gauges) handler(w *watched, logger *slog.Logger) http.Handler {
	g.registry.MustRegister(&stateCollector{watched: w})
	return promhttp.HandlerFor(g.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // a part of the metrics is better than none
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             scrapeTimeout,
	})
}

// stateCollector reads the hub's state at each scrape.
type stateCollector struct{ watched *watched }

// state is one metric of the state, with its variable labels.
func state(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	descRecords   = state("records_applied_total", "Records committed.")
	descBatches   = state("batches_total", "Batches committed, repeated ones among them.")
	descPages     = state("snapshot_pages_total", "Pages of boxes' registries committed.")
	descStates    = state("state_messages_total", "Messages of devices' states committed.")
	descOrders    = state("commands_told_total", "Commands and cancellations told to boxes, each time.")
	descOffers    = state("document_lists_told_total", "Lists of documents told to boxes.")
	descParts     = state("document_parts_told_total", "Parts of documents told to boxes.")
	descReports   = state("document_reports_total", "Messages of boxes on the documents that they have.")
	descWishes    = state("share_requests_total", "Messages of boxes that asked for shares of keys.")
	descShares    = state("shares_told_total", "Shares of keys told to boxes, each time.")
	descVerdicts  = state("verdicts_told_total", "Verdicts on devices of several boxes told, each time.")
	descSkipped   = state("snapshot_devices_skipped_total", "Devices of boxes' registries and states that were not taken, most of them of tenants that are not served.")
	descHellos    = state("hellos_total", "Hellos of boxes.")
	descWelcomes  = state("welcomes_total", "Hellos answered with a welcome.")
	descRefusals  = state("refusals_total", "Boxes refused, by code.", "code")
	descAcks      = state("acks_total", "Acknowledgements told.")
	descNacks     = state("nacks_total", "Nacks told, by code.", "code")
	descAsked     = state("hellos_asked_total", "Boxes asked for a new hello.")
	descDiscarded = state("messages_discarded_total", "Messages up that were not taken, by reason.", "reason")
	descUnsent    = state("unsent_total", "Messages down that found no connection, or too many before them.")
	descFailures  = state("registry_failures_total", "Transactions that the database could not do.")
	descLinks     = state("broker_connections_total", "Connections to the broker.")
	descBroker    = state("broker_up", "Whether a part of the way to the broker is up.", "part")
	descSessions  = state("sessions", "Boxes that are welcome.")
	descQueue     = state("queue_messages", "Messages that came and are not applied yet.")
	descBoxes     = state("boxes", "Boxes, by what is known of them.", "state")
	descMaxLag    = state("max_lag_records", "Records that wait in the box that is furthest behind.", "lane")
)

// Describe implements prometheus.Collector.
func (*stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		descRecords, descBatches, descPages, descStates, descOrders, descOffers, descParts, descReports, descWishes, descShares, descVerdicts, descSkipped, descHellos, descWelcomes, descRefusals, descAcks, descNacks, descAsked,
		descDiscarded, descUnsent, descFailures, descLinks, descBroker, descSessions, descQueue, descBoxes, descMaxLag,
	} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	c.counters(ch)
	status := c.watched.status()
	gauge(descBroker, oneIf(status.Link == edgeclaim.LampUp), "link")
	gauge(descBroker, oneIf(status.Broker == edgeclaim.LampUp), "broker")
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout) // the interface has no context
	defer cancel()
	sum, err := c.watched.boxes(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descBoxes, err)
		return
	}
	gauge(descBoxes, float64(sum.boxes), "known")
	gauge(descBoxes, float64(sum.online), "online")
	gauge(descBoxes, float64(sum.app), "app")
	for lane, lag := range sum.maxLag {
		gauge(descMaxLag, float64(lag), string(lane))
	}
}

func (c *stateCollector) counters(ch chan<- prometheus.Metric) {
	total := func(desc *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	f := c.watched.figures()
	total(descRecords, f.Records)
	total(descBatches, f.Batches)
	total(descPages, f.Pages)
	total(descStates, f.States)
	total(descOrders, f.Orders)
	total(descOffers, f.Offers)
	total(descParts, f.Parts)
	total(descReports, f.Reports)
	total(descWishes, f.Wishes)
	total(descShares, f.Shares)
	total(descVerdicts, f.Verdicts)
	total(descSkipped, f.Skipped)
	total(descHellos, f.Hellos)
	total(descWelcomes, f.Welcomes)
	total(descAcks, f.Acks)
	total(descAsked, f.Asked)
	total(descUnsent, f.Unsent)
	total(descFailures, f.Failures)
	total(descLinks, f.Links)
	for code, n := range f.Refusals {
		total(descRefusals, n, string(code))
	}
	for code, n := range f.Nacks {
		total(descNacks, n, string(code))
	}
	total(descDiscarded, f.Malformed, "malformed")
	total(descDiscarded, f.Retained, "retained")
	total(descDiscarded, f.Oversized, "oversized")
	total(descDiscarded, f.Foreign, "no_session")
	ch <- prometheus.MustNewConstMetric(descSessions, prometheus.GaugeValue, float64(f.Sessions))
	ch <- prometheus.MustNewConstMetric(descQueue, prometheus.GaugeValue, float64(f.QueueMessages))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
