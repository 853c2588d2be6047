// The panel at the side: everything about what is selected.

class Panel {
  constructor(root, model, go) {
    this.root = root;
    this.model = model;
    this.go = go;
  }

  show(selection) {
    const { node, group, value } = selection;
    const parts = node
      ? this.node(node)
      : group
        ? this.group(group)
        : value
          ? this.input(value)
          : this.overview();
    this.root.replaceChildren(...parts.filter(Boolean));
    this.root.scrollTop = 0;
  }

  overview() {
    const { model } = this;
    const saved = sizeText(model.saved);
    const facts = [
      ["nodes", model.nodes.length.toLocaleString("en")],
      ["values", model.values.length.toLocaleString("en")],
      ["saved for backward", saved],
    ];
    if (model.execution) {
      const picture = new MemoryPicture(model);
      facts.push(
        ["dispatches", model.execution.launches.length.toLocaleString("en")],
        ["barriers", model.execution.launches.filter((l) => l.barrier).length.toLocaleString("en")],
        ["arenas", sizeText(picture.total)],
        ["most alive", sizeText(picture.live[picture.peak])],
      );
    }
    const broad = [...model.broad].map((k) => this.link(model.values[k]));
    return [
      el("h2", {}, model.graph),
      el("p", {}, `stage: ${model.stage}`),
      el("h3", {}, "Totals"),
      list(facts),
      el("h3", {}, "How to look around"),
      el(
        "p",
        {},
        "Drag to move, scroll to zoom. A click opens a scope or selects a node; a click on" +
          " the title of an open scope closes it. Search with / and show everything with f.",
      ),
      broad.length &&
        el("p", {}, "Read nearly everywhere, so drawn only when selected: ", ...broad),
    ];
  }

  node(node) {
    const { model } = this;
    const body = node.attributes.find(([name]) => name === "body");
    const attributes = node.attributes.filter(([name]) => name !== "body");
    return [
      el("h2", {}, titleOf(node)),
      this.crumbs(node.scope),
      this.kind(node.category),
      el("h3", {}, node.outputs.length > 1 ? "Results" : "Result"),
      ...node.outputs.map((value) => this.value(value, true)),
      el("h3", {}, "Operands"),
      ...node.inputs.map((value) => this.value(value, false)),
      attributes.length && el("h3", {}, "Attributes"),
      attributes.length && list(attributes),
      body && el("h3", {}, "Replaces"),
      body && el("pre", {}, body[1]),
      model.execution && el("h3", {}, "Dispatches"),
      ...(model.execution ? this.launches(node) : []),
    ];
  }

  kind(category) {
    const name = this.model.categories[category];
    const dot = el("span", { className: "dot", style: `background:var(--${name})` });
    return el("p", {}, dot, this.model.meanings[category]);
  }

  value(value, withUsers) {
    const role = value.role ? `${value.role}, ` : "";
    const category = value.category >= 0 ? this.model.meanings[value.category] : "";
    const lines = [
      el("div", {}, this.link(value)),
      el("code", {}, `${value.type}`),
      el(
        "div",
        { className: "more" },
        [`${role}${sizeText(value.bytes)} (${value.bytes.toLocaleString("en")} bytes)`, category]
          .filter(Boolean)
          .join(", "),
      ),
    ];
    if (value.returned) lines.push(more("returned by the graph"));
    if (value.replaces) lines.push(more("takes the place of ", this.link(value.replaces)));
    if (value.place) {
      const { buffer, offset, size } = value.place;
      lines.push(more("in ", el("code", {}, `${buffer}[${offset}:${offset + size}]`)));
    }
    if (value.span) {
      const { begin, end, tenants } = value.span;
      lines.push(more(`occupied from dispatch ${begin} to ${end}`));
      const others = tenants.filter((other) => other !== value).map((other) => this.link(other));
      if (others.length) lines.push(more("shared with ", ...others.flatMap((link) => [link, " "])));
    }
    if (withUsers) lines.push(this.users(value));
    return el("div", { className: "card" }, ...lines);
  }

  users(value) {
    if (!value.users.length) return more("read by no node");
    const links = value.users.slice(0, 40).map((k) => {
      const user = this.model.nodes[k];
      return el("div", {}, this.link(user.outputs[0], `${titleOf(user)} → ${user.outputs[0].name}`));
    });
    const rest = value.users.length - links.length;
    return more("read by", ...links, rest > 0 ? `and ${rest} more` : "");
  }

  launches(node) {
    if (!node.launches.length) return [el("p", {}, "None: the result is a view of its operand.")];
    return node.launches.map((launch) =>
      el(
        "div",
        { className: "card" },
        el(
          "div",
          {},
          el("b", {}, launch.kernel),
          ` · ${launch.position}` + (launch.barrier ? ", after a barrier" : ""),
        ),
        more(`groups ${launch.groups.join(" × ")}`),
        launch.constants && more(launch.constants),
        ...launch.bindings.map(({ access, buffer, offset, size }) =>
          more(`${access} `, el("code", {}, `${buffer}[${offset}:${offset + size}]`)),
        ),
      ),
    );
  }

  group(group) {
    const counts = new Map();
    const ops = new Map();
    let bytes = 0;
    for (const k of group.members) {
      const node = this.model.nodes[k];
      counts.set(node.category, (counts.get(node.category) || 0) + 1);
      ops.set(node.op, (ops.get(node.op) || 0) + 1);
      for (const value of node.outputs) {
        if (this.model.categories[value.category] === "saved" && node.op !== "reshape") {
          bytes += value.bytes;
        }
      }
    }
    const byCount = (a, b) => b[1] - a[1];
    return [
      el("h2", {}, group.title),
      this.crumbs(group.scope),
      el("p", {}, this.model.phases[group.phase]),
      el("h3", {}, "Totals"),
      list([
        ["nodes", group.members.length.toLocaleString("en")],
        ...[...counts].sort((a, b) => a[0] - b[0]).map(([k, n]) => [this.model.meanings[k], n]),
        ...(bytes ? [["bytes saved", sizeText(bytes)]] : []),
      ]),
      el("h3", {}, "Ops"),
      list([...ops].sort(byCount)),
    ];
  }

  input(value) {
    return [
      el("h2", {}, value.name),
      el("p", {}, `${value.role || "scratch"} of the graph`),
      el("h3", {}, "Value"),
      this.value(value, true),
    ];
  }

  crumbs(scope) {
    const parts = scope ? scope.split("/") : [];
    const links = parts.map((part, k) => {
      if (part === "grad" || part === "recompute") return el("a", { className: "phase" }, part);
      return el("a", { onclick: () => this.go({ scope: parts.slice(0, k + 1).join("/") }) }, part);
    });
    return el("p", { className: "crumbs" }, ...links);
  }

  link(value, text) {
    return el("a", { onclick: () => this.go({ value }) }, text || `%${value.name}`);
  }
}

function el(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child || child === 0));
  return element;
}

function more(...children) {
  return el("div", { className: "more" }, ...children);
}

function list(pairs) {
  return el(
    "dl",
    {},
    ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]),
  );
}
