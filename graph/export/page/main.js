// The page: what is open and selected, the pointer, and links by the part behind #.

const NOTHING = { key: "", node: null, group: null, value: null, lines: [], near: new Set() };
const byId = (id) => document.getElementById(id);

class Page {
  constructor(model) {
    this.model = model;
    this.canvas = byId("canvas");
    this.cameras = { graph: new Camera(this.canvas), memory: new Camera(this.canvas) };
    this.pictures = { graph: new GraphPicture(model) };
    if (model.execution) this.pictures.memory = new MemoryPicture(model);
    this.view = "graph";
    this.selection = NOTHING;
    this.panel = new Panel(byId("panel"), model, (target) => this.go(target));
    this.readTheme();
    this.describe();
    this.listen();
    this.readHash();
  }

  get picture() {
    return this.pictures[this.view];
  }
  get camera() {
    return this.cameras[this.view];
  }

  describe() {
    const { model } = this;
    byId("graph-name").textContent = model.graph;
    byId("graph-stage").textContent = model.stage;
    byId("tabs").hidden = !model.execution;
    const used = new Set(
      model.nodes.flatMap((n) => [n.category, ...n.outputs.map((v) => v.category)]),
    );
    byId("legend").append(
      ...model.categories
        .map(
          (name, k) =>
            used.has(k) &&
            el(
              "span",
              {},
              el("span", { className: "dot", style: `background:var(--${name})` }),
              model.meanings[k],
            ),
        )
        .filter(Boolean),
    );
  }

  readTheme() {
    const style = getComputedStyle(document.documentElement);
    this.theme = {};
    for (const name of [
      "ground",
      "card",
      "inner",
      "line",
      "text",
      "faint",
      "edge",
      ...this.model.categories,
    ]) {
      this.theme[name] = style.getPropertyValue(`--${name}`);
    }
  }

  // Drawing

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    const { x, y, scale } = this.camera;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
    this.picture.draw(context, this.camera, this.theme, this.selection);
    const root = document.documentElement;
    root.dataset.ready ||= performance.now().toFixed(0);
  }

  // What is open and selected

  /** Select a value or a scope, open what is around it, and move there. */
  go({ value, scope }) {
    if (value) {
      if (value.producer >= 0) this.openAround(this.model.nodes[value.producer].scope);
      this.selectValue(value);
      const box = value.producer >= 0 ? this.pictures.graph.shown[value.producer] : null;
      if (box && this.view === "graph") this.camera.center(box);
    } else if (scope !== undefined) {
      this.openAround(scope);
      const group = [...this.model.byKey.values()].find((g) => g.scope === scope);
      if (group) {
        this.select({ ...NOTHING, key: group.key, group });
        this.camera.center(this.pictures.graph.boxes.get(group.key));
      }
    }
    this.redraw();
  }

  openAround(scope) {
    const parts = scope.split("/").filter((part) => part !== "grad" && part !== "recompute");
    if (!scope) parts.splice(0, parts.length, "");
    const before = this.pictures.graph.opened.size;
    parts.forEach((_, k) => this.pictures.graph.opened.add(parts.slice(0, k + 1).join("/")));
    if (this.pictures.graph.opened.size !== before) this.updateGraph();
  }

  /** Open or close a scope and leave the given box where it is on the screen. */
  toggle(box) {
    const { graph } = this.pictures;
    const [x, y] = this.camera.toScreen(box.x, box.y);
    const { scope, key } = box.item;
    if (!graph.opened.delete(scope)) graph.opened.add(scope);
    this.updateGraph();
    const now = graph.boxes.get(key);
    this.camera.x = x - now.x * this.camera.scale;
    this.camera.y = y - now.y * this.camera.scale;
    this.select({ ...NOTHING, key, group: box.item });
  }

  updateGraph() {
    this.pictures.graph.update();
    const { node } = this.selection;
    if (node) this.selectValue(this.selection.value);
  }

  selectValue(value) {
    const { graph } = this.pictures;
    const node = this.model.nodes[value.producer] || null;
    const members = new Set(node ? [node.index] : value.users);
    const lines = node ? graph.linesOf(members) : [];
    const near = new Set(lines.flatMap((line) => [line.a.key, line.b.key]));
    if (!node) value.users.forEach((k) => near.add(graph.shown[k].key));
    const key = node ? graph.shown[node.index].key : "";
    this.select({ key, node, group: null, value, lines, near });
  }

  select(selection) {
    this.selection = selection;
    this.panel.show(selection);
    this.writeHash();
    this.redraw();
  }

  show(view) {
    if (!this.pictures[view]) return;
    this.view = view;
    byId("tab-graph").classList.toggle("on", view === "graph");
    byId("tab-memory").classList.toggle("on", view === "memory");
    byId("close-all").style.visibility = view === "graph" ? "" : "hidden";
    if (!this.camera.placed) {
      this.camera.fit(this.picture.bounds, view === "graph" ? 0.6 : 0);
      this.camera.placed = true;
    }
    this.writeHash();
    this.redraw();
  }

  // Links

  readHash() {
    const given = new URLSearchParams(location.hash.slice(1));
    const opened = given.get("open") === null ? this.model.opened : given.get("open").split(",");
    const known = new Set([...this.model.byKey.values()].map((group) => group.scope));
    opened.filter((scope) => known.has(scope)).forEach((scope) => this.openAround(scope));
    this.resize();
    this.show("graph");
    const value = this.model.byName.get(given.get("select"));
    if (value) this.go({ value });
    else this.select(NOTHING);
    if (given.get("view") === "memory") this.show("memory");
  }

  writeHash() {
    const parts = [];
    const { opened } = this.pictures.graph;
    if (opened.size) parts.push("open=" + [...opened].sort().join(","));
    if (this.selection.value) parts.push("select=" + this.selection.value.name);
    if (this.view !== "graph") parts.push("view=" + this.view);
    history.replaceState(null, "", parts.length ? "#" + parts.join("&") : location.pathname);
  }

  // The pointer and the keyboard

  listen() {
    const { canvas } = this;
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, y: event.offsetY, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return this.hover(event.offsetX, event.offsetY);
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      if (!drag.moved && Math.hypot(dx, dy) < 4) return undefined;
      drag = { x: event.offsetX, y: event.offsetY, moved: true };
      canvas.classList.add("drag");
      this.camera.x += dx;
      this.camera.y += dy;
      byId("tip").hidden = true;
      return this.redraw();
    });
    canvas.addEventListener("pointerup", (event) => {
      canvas.classList.remove("drag");
      if (drag && !drag.moved) this.click(event.offsetX, event.offsetY);
      drag = null;
    });
    canvas.addEventListener("pointerleave", () => {
      byId("tip").hidden = true;
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.camera.zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
        this.redraw();
      },
      { passive: false },
    );
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.readTheme();
      this.redraw();
    });
    document.addEventListener("keydown", (event) => this.key(event));
    byId("fit").onclick = () => this.fit();
    byId("close-all").onclick = () => this.closeAll();
    byId("tab-graph").onclick = () => this.show("graph");
    byId("tab-memory").onclick = () => this.show("memory");
    new Search(this.model, (target) => this.go(target));
  }

  key(event) {
    if (event.target.tagName === "INPUT") return;
    if (event.key === "/") {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "f") this.fit();
    else if (event.key === "Escape") this.select(NOTHING);
    else if (event.key === "+" || event.key === "-") {
      const [width, height] = this.camera.size;
      this.camera.zoom(event.key === "+" ? 1.25 : 0.8, width / 2, height / 2);
      this.redraw();
    }
  }

  fit() {
    this.camera.fit(this.picture.bounds);
    this.redraw();
  }

  closeAll() {
    this.pictures.graph.opened.clear();
    this.pictures.graph.update();
    this.select(NOTHING);
    this.camera.fit(this.picture.bounds, 0.6);
    this.redraw();
  }

  hover(x, y) {
    const item = this.picture.at(...this.camera.toPicture(x, y));
    const text = this.picture.tip(item);
    const tip = byId("tip");
    this.canvas.classList.toggle("point", Boolean(item));
    tip.hidden = !text;
    tip.textContent = text;
    const [width] = this.camera.size;
    tip.style.left = `${Math.min(x + 14, width - tip.offsetWidth - 8)}px`;
    tip.style.top = `${y + 16}px`;
  }

  click(x, y) {
    const item = this.picture.at(...this.camera.toPicture(x, y));
    if (!item) this.select(NOTHING);
    else if (this.view === "memory") {
      const [value] = item.span.tenants;
      this.selectValue(
        value || {
          name: item.span.title,
          type: "",
          bytes: item.span.size,
          category: -1,
          producer: -1,
          users: [],
          span: item.span,
        },
      );
    } else if (typeof item.item === "number")
      this.selectValue(this.model.nodes[item.item].outputs[0]);
    else this.toggle(item);
  }
}

/** What scripts and tests may ask the page. */
window.bitgraph = new Page(readModel(JSON.parse(byId("data").textContent)));
