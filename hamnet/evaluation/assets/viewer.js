/* The orbitals of the report: two linked 3Dmol.js viewers, predicted beside label. The library and the
   grids lie in the page as gzip in base64; nothing is fetched. */
(() => {
  "use strict";
  const root = document.getElementById("orbital-viewer");
  const { frames, clip, isovalue } = JSON.parse(document.getElementById("orbital-data").textContent);
  const state = { frame: 0, orbital: "HOMO", isovalue };
  const viewers = {};
  let shown = -1;
  let turn = 0;

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function loadLibrary() {
    const packed = document.getElementById("library").textContent.trim();
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(packed));
    document.head.append(script);
  }

  async function volume(frame, packed) {
    const integers = new Int8Array(await unpack(packed));
    const data = new $3Dmol.VolumeData("", "");
    const [x, y, z] = frame.shape;
    data.size = { x, y, z };
    data.origin = { x: frame.origin[0], y: frame.origin[1], z: frame.origin[2] };
    data.unit = { x: frame.spacing, y: frame.spacing, z: frame.spacing };
    data.data = Float32Array.from(integers, (n) => (n * clip) / 127);
    return data;
  }

  function style(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  async function draw() {
    const mine = ++turn;
    const frame = frames[state.frame];
    if (!(state.orbital in frame.orbitals)) state.orbital = Object.keys(frame.orbitals)[0];
    const orbital = frame.orbitals[state.orbital];
    const volumes = {};
    for (const side of Object.keys(viewers)) volumes[side] = await volume(frame, orbital[side]);
    if (mine !== turn) return; /* a later click has overtaken this one */
    for (const [side, viewer] of Object.entries(viewers)) {
      viewer.setBackgroundColor(style("--paper"), 1);
      viewer.removeAllModels();
      viewer.removeAllShapes();
      viewer.addModel(frame.xyz, "xyz");
      viewer.setStyle({}, { stick: { radius: 0.1 }, sphere: { scale: 0.22 } });
      for (const [sign, color] of [[1, style("--positive")], [-1, style("--negative")]]) {
        viewer.addIsosurface(volumes[side], {
          isoval: sign * state.isovalue, color, opacity: 0.82, smoothness: 2,
        });
      }
      if (shown !== state.frame) {
        viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
        viewer.zoomTo({ model: -1 }); /* the atoms; surfaces reach a little farther */
        viewer.zoom(0.9);
        viewer.rotate(-60, "x");
      }
      viewer.render();
    }
    shown = state.frame;
    describe(frame, orbital);
    root.dataset.drawn = `${state.frame} ${state.orbital} ${state.isovalue}`;
  }

  function describe(frame, orbital) {
    const set = (name, text) => { root.querySelector(`[data-text=${name}]`).textContent = text; };
    set("predicted", `predicted, ${orbital.energy_ev.toFixed(3)} eV`);
    set("label", `label, ${orbital.energy_ref_ev.toFixed(3)} eV`);
    const error = 1e3 * (orbital.energy_ev - orbital.energy_ref_ev);
    set("facts", `${frame.title}. ${state.orbital}: error ${error >= 0 ? "+" : "−"}` +
      `${Math.abs(error).toPrecision(3)} meV, overlap of the two orbitals ${orbital.overlap.toFixed(5)}.`);
    set("isovalue", `${state.isovalue.toFixed(3)} bohr⁻³ᐟ²`);
    for (const button of root.querySelectorAll("button[data-key]")) {
      const pressed = String(state[button.dataset.key]) === button.dataset.value;
      button.setAttribute("aria-pressed", String(pressed));
    }
  }

  function listen() {
    for (const button of root.querySelectorAll("button[data-key]")) {
      button.addEventListener("click", () => {
        const { key, value } = button.dataset;
        state[key] = key === "frame" ? Number(value) : value;
        draw();
      });
    }
    root.querySelector("input").addEventListener("input", (event) => {
      state.isovalue = Number(event.target.value);
      draw();
    });
    /* The wheel scrolls the page; with Ctrl, or a pinch, it zooms. */
    root.addEventListener("wheel", (event) => { if (!event.ctrlKey) event.stopPropagation(); },
      { capture: true });
    new ResizeObserver(() => Object.values(viewers).forEach((viewer) => viewer.resize()))
      .observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  }

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  }

  async function start() {
    try {
      if (!hasWebGL()) throw new Error("no WebGL");
      await loadLibrary();
      for (const side of ["predicted", "label"]) {
        const box = root.querySelector(`[data-side=${side}]`);
        viewers[side] = $3Dmol.createViewer(box, { antialias: true, minimumZoomToDistance: 3 });
      }
      viewers.predicted.linkViewer(viewers.label);
      viewers.label.linkViewer(viewers.predicted);
      root.hidden = false;
      Object.values(viewers).forEach((viewer) => viewer.resize());
      listen();
      await draw();
    } catch (error) {
      root.hidden = true;
      root.closest("section").querySelector("details").open = true;
      document.getElementById("orbital-note").textContent =
        `This browser cannot show surfaces in three dimensions (${error.message}); their outlines:`;
    }
  }

  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      start();
    }
  }, { rootMargin: "600px" }).observe(document.getElementById("orbital-note"));
})();
