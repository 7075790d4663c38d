// Package node is the daemon: the only place where the DICOM listener, the
// store and the plugins meet.
//
// The road of an image, one file each: receive.go (C-STORE to store),
// assembler.go (when is a series whole), dispatch.go (series to plugin to
// report), forward.go (report to PACS). Between the steps stands the store's
// durable queue, so that a restart resumes every one of them.
package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hilum/dimse"
	"hilum/models"
	"hilum/node/access"
	"hilum/node/assemble"
	"hilum/node/audit"
	"hilum/node/commitment"
	"hilum/node/config"
	"hilum/node/device"
	"hilum/node/task"
	"hilum/node/web"
	"hilum/plugins/host"
	"hilum/store"
)

// Options are what a node is started with.
type Options struct {
	Config  config.Config
	Version string
	Logger  *slog.Logger
	Now     func() time.Time // nil: time.Now

	// AllPlugins has Start fail when a plugin does not start. Not set: the node
	// receives images whatever its plugins do, and their jobs wait.
	AllPlugins bool
}

// Node is a running node.
type Node struct {
	log       *slog.Logger
	listener  net.Listener
	tls       *access.ServerTLS // nil without TLS
	plugins   *host.Host
	router    *router
	free      *capacities
	scheduler *scheduler
	access    atomic.Pointer[access.Rules] // as of the last reload
	archive   *archive
	audit     *audit.Trail

	config   atomic.Pointer[config.Config] // as of the last reload
	failed   chan error                    // a part that must not end has ended
	cleanups []cleanup                     // undone last first
	stop     sync.Once
	stopErr  error
}

type cleanup struct {
	name string
	fn   func(ctx context.Context) error
}

// Start checks everything that can fail, then starts all parts; on an error
// nothing is left running. The caller must Stop the node. ctx only limits the
// start.
func Start(ctx context.Context, o Options) (_ *Node, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Node{log: o.Logger, failed: make(chan error, 3)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
		}
	}()
	cfg := o.Config

	specs, err := Specs(cfg)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(cfg.Data, storeOptions(o))
	if err != nil {
		return nil, err
	}
	n.onStop("store", func(context.Context) error { return st.Close() })

	if err := n.prepareTLS(cfg); err != nil {
		return nil, err
	}
	if n.listener, err = listen(cfg.Listen); err != nil {
		return nil, err
	}
	if n.tls != nil {
		n.listener = tls.NewListener(n.listener, n.tls.Config())
	}
	n.onStop("listener", func(context.Context) error { return ignoreClosed(n.listener.Close()) })

	// Opened early and so closed late: what the other parts do is told.
	n.audit, err = audit.Open(cfg.Audit, audit.Peer{AETitle: cfg.AETitle, Address: n.Addr().String()}, o.Logger, o.Now)
	if err != nil {
		return nil, err
	}
	n.onStop("audit trail", func(ctx context.Context) error { n.audit.Stopped(); return n.audit.Close(ctx) })

	scratch, err := makeScratch(cfg)
	if err != nil {
		return nil, err
	}
	n.onStop("scratch folder", func(context.Context) error { return removeTree(scratch) })

	way := &router{store: st}
	routing, err := newRouting(cfg)
	if err != nil {
		return nil, err
	}
	way.now.Store(routing)
	free := &capacities{pool: device.NewPool(routing.devices, o.Now), router: way, log: o.Logger, wake: make(chan struct{}, 1)}
	plugins, err := host.New(host.Options{
		Plugins: specs, Scratch: scratch, Logger: o.Logger,
		Hide: secrets(cfg), Jobs: filepath.Join(scratch, jobsFolder),
		KeepGoing: !o.AllPlugins, Changed: free.changed,
	})
	if err != nil {
		return nil, err
	}
	free.host = plugins
	n.plugins, n.router, n.free = plugins, way, free
	n.config.Store(&cfg)
	n.onStop("plugins", plugins.Stop)
	if err := plugins.Start(ctx); err != nil {
		return nil, err
	}

	if err := n.startWork(o, st, free, scratch); err != nil {
		return nil, err
	}
	n.audit.Started()
	o.Logger.Info("node started", "version", o.Version, "ae_title", cfg.AETitle, "listen", n.Addr().String(), "data", cfg.Data, "plugins", len(cfg.Plugins))
	return n, nil
}

// jobsFolder holds, within the scratch folder, the series of each plugin's jobs.
const jobsFolder = "jobs"

// secrets are what no plugin may see: all that the node keeps, its keys and
// the file that names them.
func secrets(cfg config.Config) []string {
	all := []string{cfg.Data, cfg.Scratch, cfg.File, cfg.TLS.Key, cfg.Audit.File, cfg.Audit.TLS.Key}
	for _, d := range cfg.Destinations {
		all = append(all, d.TLS.Key)
	}
	return slices.DeleteFunc(all, func(path string) bool { return path == "" })
}

// storeOptions translates the configuration for the store.
func storeOptions(o Options) store.Options {
	so := store.Options{Logger: o.Logger, Now: o.Now, MinFree: int64(o.Config.MinFree), Duplicates: store.Duplicates(o.Config.Duplicates)}
	if so.MinFree == 0 {
		so.MinFree = -1 // no reserve; zero would be the store's default
	}
	return so
}

// startWork starts what handles images, in the order in which Stop must end
// it: first no more images come in, then the jobs end.
func (n *Node) startWork(o Options, st *store.Store, free *capacities, scratch string) error {
	cfg, plugins := o.Config, free.host
	requeued, err := st.RequeueRunning()
	if err != nil {
		return fmt.Errorf("queue the jobs again that the last node left running: %w", err)
	}
	if requeued > 0 {
		o.Logger.Info("jobs interrupted by the last end of the node are queued again", "jobs", requeued)
	}
	results := filepath.Join(cfg.Data, resultsFolder)
	if err := sweepResults(results, st); err != nil {
		return err
	}
	asm := newAssembler(st, assemble.Rules{
		Quiet: cfg.Series.Quiet, AssociationWait: cfg.Series.AssociationWait, GapWait: cfg.Series.GapWait,
	}, free.router, o.Logger, o.Now)
	peers := newServices(cfg, func(aeTitle string) (config.Destination, bool) { return n.config.Load().ReportTo(aeTitle) }, st, asm.procedure, o.Logger, o.Now)
	asm.tell = peers.notifier.Announce
	if err := asm.resume(); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	n.onStop("jobs", func(context.Context) error { cancel(); group.Wait(); return nil })
	group.Go(func() { asm.run(ctx) })
	group.Go(func() { free.run(ctx) })
	n.scheduler = &scheduler{
		dispatcher: &dispatcher{
			store: st, host: plugins, pool: free.pool, router: free.router, jobs: cfg.Jobs, destinations: cfg.Destinations,
			scratch: scratch, results: results, station: cfg.AETitle, software: o.Version, log: o.Logger, now: o.Now,
		},
		take: ctx, work: ctx, pipelines: map[string]crew{},
	}
	group.Go(func() { <-ctx.Done(); n.scheduler.all.Wait() })
	n.scheduler.arrange()
	forwarders := map[string]*forwarder{}
	peers.requester.Ended = func(t commitment.Transaction) error {
		if f, ok := forwarders[t.Destination]; ok {
			return f.ended(t)
		}
		return nil // the destination is configured no more
	}
	for _, dest := range cfg.Destinations {
		f := &forwarder{store: st, destination: dest, committer: peers.requester, audit: n.audit, calling: cfg.AETitle, log: o.Logger, now: o.Now}
		if dest.CallingAETitle != "" {
			f.calling = dest.CallingAETitle
		}
		forwarders[dest.Name] = f
		w := worker{store: st, queue: task.DeliveryQueue(dest.Name), log: o.Logger, now: o.Now, run: f.run, hold: f.hold}
		group.Go(func() { w.work(ctx) })
	}

	peers.start(ctx, &group, worker{store: st, log: o.Logger, now: o.Now})

	keep := &retention{store: st, rules: cfg.Retention, routes: asm.router.routes, destinations: cfg.Destinations, log: o.Logger, now: o.Now}
	group.Go(func() { keep.run(ctx) })

	if err := n.serveAdmin(o, st, plugins); err != nil {
		return err
	}
	rules, err := access.New(cfg)
	if err != nil {
		return err
	}
	n.access.Store(rules)
	arc := newArchive(st, cfg, n.audit, o.Logger)
	n.archive = arc
	n.onStop("move destinations", func(context.Context) error { arc.releases.Wait(); return nil })
	server := &dimse.Server{
		AcceptAnyCalledAETitle: true, // the rules know which titles are right
		Handler: struct {
			*receiver
			*archive
		}{&receiver{store: st, assembler: asm, log: o.Logger, audit: n.audit}, arc},
		Normalized:              peers.normalized(),
		AcceptPrivateSOPClasses: cfg.AcceptPrivateSOPClasses,
		Admit: func(ctx context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
			if err := st.Room(); err != nil {
				return dimse.Admission{}, fmt.Errorf("%w: %w", dimse.ErrNoRoom, err)
			}
			return n.admit(ctx, rq)
		},
		MaxPDULength:    uint32(cfg.MaxPDU),
		MaxAssociations: cfg.MaxAssociations,

		MaxAssociationsPerAddress: cfg.MaxAssociationsPerAddress,
		MaxOperations:             cfg.MaxOperations,

		MaxBytesInFlight:           int64(cfg.MaxInFlight),
		MaxBytesInFlightPerAddress: int64(cfg.MaxInFlightPerAddress),
		MaxFailuresPerAddress:      cfg.MaxFailuresPerAddress,

		ARTIM:    cfg.Timeouts.ARTIM,
		Idle:     cfg.Timeouts.Idle,
		Lifetime: cfg.Timeouts.Lifetime,
		Logger:   o.Logger,
	}
	n.onStop("associations", server.Shutdown)
	go func() {
		if err := server.Serve(n.listener); !errors.Is(err, dimse.ErrServerClosed) {
			n.failed <- fmt.Errorf("the DICOM listener ended: %w", err)
		}
	}()
	return nil
}

// admit asks the access rules, and tells the audit trail of whom they refuse and
// whom they know.
func (n *Node) admit(ctx context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
	admission, err := n.access.Load().Admit(ctx, rq)
	peer := audit.Peer{AETitle: rq.CallingAETitle, Address: rq.RemoteAddr.String()}
	switch named := rq.UserIdentity != nil; {
	case named && (admission.Identified || errors.Is(err, dimse.ErrUserIdentity)):
		n.audit.LoggedIn(peer, string(rq.UserIdentity.Primary), err == nil)
	case err != nil:
		n.audit.Refused(peer, err.Error())
	}
	return admission, err
}

// serveAdmin starts the REST interface on the socket in the data folder.
func (n *Node) serveAdmin(o Options, st *store.Store, plugins *host.Host) error {
	l, err := web.Listen(o.Config.Data)
	if err != nil {
		return err
	}
	handler := &web.Handler{
		Store:   st,
		Logger:  o.Logger,
		Plugins: func() []web.Plugin { return PluginViews(*n.config.Load(), plugins.Status()) },
		Status: web.Status{
			Running: true, Version: o.Version, AETitle: o.Config.AETitle, Listen: n.Addr().String(), Started: o.Now(),
		},
	}
	server := &http.Server{Handler: web.WithProfiles(handler.Routes()), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn)}
	n.onStop("admin socket", server.Shutdown)
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.failed <- fmt.Errorf("the admin socket ended: %w", err)
		}
	}()
	return nil
}

// prepareTLS reads the files of TLS, those of the destinations only to find out
// whether they are good: each delivery reads them anew.
func (n *Node) prepareTLS(cfg config.Config) error {
	for _, d := range cfg.Destinations {
		if _, err := access.ClientTLS(d.TLS); d.TLS.Enabled && err != nil {
			return fmt.Errorf("destination %s: %w", d.Name, err)
		}
	}
	if err := checkPeerTLS(cfg); err != nil {
		return err
	}
	if cfg.TLS.Certificate == "" {
		return nil
	}
	var err error
	n.tls, err = access.NewServerTLS(cfg.TLS)
	return err
}

// checkPeerTLS reads the files of TLS with the peers that a reload may change.
func checkPeerTLS(cfg config.Config) error {
	for _, p := range cfg.Peers {
		if _, err := access.ClientTLS(p.TLS); p.TLS.Enabled && err != nil {
			return fmt.Errorf("peer %s: %w", p.AETitle, err)
		}
	}
	for _, d := range cfg.MoveDestinations {
		if _, err := access.ClientTLS(d.TLS); d.TLS.Enabled && err != nil {
			return fmt.Errorf("move destination %s: %w", d.AETitle, err)
		}
	}
	return nil
}

// Addr is the address that the DICOM listener is bound to.
func (n *Node) Addr() net.Addr { return n.listener.Addr() }

// Failed delivers the error of a part that ended without being told to.
func (n *Node) Failed() <-chan error { return n.failed }

// Stop ends the node: no new association, the C-STORE operations under way
// end, running jobs go back into the queue, the plugins end, the store is
// closed. When ctx ends first, what still runs is cut off; nothing
// acknowledged is lost by that. Stop may be called twice.
func (n *Node) Stop(ctx context.Context) error {
	n.stop.Do(func() {
		var errs []error
		for i := len(n.cleanups) - 1; i >= 0; i-- {
			c := n.cleanups[i]
			if err := c.fn(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", c.name, err))
			}
		}
		n.stopErr = errors.Join(errs...)
	})
	return n.stopErr
}

func (n *Node) onStop(name string, fn func(context.Context) error) {
	n.cleanups = append(n.cleanups, cleanup{name, fn})
}

// listen opens the DICOM port, with a sentence for the error that people meet.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("the address %s is in use by another program: stop it, or set `listen` to a free port", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// makeScratch makes an empty folder for the series that plugins look at. It
// never empties a folder that a person named: under one it takes a folder of
// its own, one for each data folder. The store's lock keeps it ours.
func makeScratch(cfg config.Config) (string, error) {
	dir := filepath.Join(cfg.Data, "scratch")
	if cfg.Scratch != "" {
		data, err := filepath.Abs(cfg.Data)
		if err != nil {
			return "", fmt.Errorf("name the scratch folder: %w", err)
		}
		dir = filepath.Join(cfg.Scratch, fmt.Sprintf("hilum-%x", sha256.Sum256([]byte(data)))[:22])
	}
	if err := removeTree(dir); err != nil {
		return "", fmt.Errorf("empty the scratch folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the scratch folder: %w", err)
	}
	return dir, nil
}

// Specs turns the configured plugins into what the host starts, and verifies
// their models, so that a wrong one is named before anything runs.
func Specs(cfg config.Config) ([]host.Spec, error) {
	specs := make([]host.Spec, 0, len(cfg.Plugins))
	for _, p := range cfg.Plugins {
		spec := host.Spec{Name: p.Name, Path: p.Path, SHA256: p.SHA256, Env: p.Env, Deadline: p.Deadline, Processes: p.Processes,
			Memory: int64(p.Memory), Network: p.Network, Unconfined: p.Unconfined}
		for _, m := range []struct{ flag, folder, task string }{
			{"--model", p.Model, ""}, {"--classifier", p.Classifier, models.TaskNoduleClassification},
		} {
			if m.folder == "" {
				continue
			}
			if _, err := models.Verify(m.folder, m.task); err != nil {
				return nil, fmt.Errorf("plugin %s: %w", p.Name, err)
			}
			folder, err := filepath.Abs(m.folder) // the process runs in a folder of its own
			if err != nil {
				return nil, fmt.Errorf("plugin %s: find the model: %w", p.Name, err)
			}
			spec.Args = append(spec.Args, m.flag, folder)
			spec.Read = append(spec.Read, folder)
		}
		spec.Args = append(spec.Args, p.Args...)
		specs = append(specs, spec)
	}
	return specs, nil
}
