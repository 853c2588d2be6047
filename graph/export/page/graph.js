// The graph on the canvas: boxes and lines of what is open, and what is under the pointer.

class GraphPicture {
  constructor(model) {
    this.model = model;
    this.opened = new Set();
    this.update();
  }

  /** Place everything anew after a scope was opened or closed. */
  update() {
    this.layout = layOut(this.model.groups, this.opened, this.model.metrics);
    this.boxes = new Map(this.layout.boxes.map((box) => [box.key, box]));
    this.shown = [];
    for (const box of this.layout.boxes) {
      if (typeof box.item === "number") this.shown[box.item] = box;
      else if (!box.open)
        box.item.members.forEach((k) => {
          this.shown[k] = box;
        });
    }
    this.lines = this.joined((value) => !this.model.broad.has(value.index));
  }

  get bounds() {
    return { x: 0, y: 0, width: this.layout.width, height: this.layout.height };
  }

  /** One line for all wanted values that go from one visible box to another. */
  joined(wanted) {
    const lines = new Map();
    for (const node of this.model.nodes) {
      for (const value of node.inputs) {
        if (value.producer < 0 || !wanted(value, node)) continue;
        const a = this.shown[value.producer];
        const b = this.shown[node.index];
        if (a === b) continue;
        const key = a.key + ">" + b.key;
        const across = this.model.nodes[value.producer].phase !== node.phase;
        if (!lines.has(key)) lines.set(key, this.line(a, b, across));
        const line = lines.get(key);
        const category = this.model.categories[value.category];
        if (across && category === "saved") line.category = category;
        if (across && category === "recomputed") line.category ||= category;
      }
    }
    return [...lines.values()];
  }

  line(a, b, across) {
    const path = new Path2D();
    const M = this.model.metrics;
    const middle = (box) => box.y + box.height / 2;
    const down = a.y < b.y;
    const gap = down ? b.y - a.y - a.height : a.y - b.y - b.height;
    const bends = this.layout.bends.get(a.key + ">" + b.key) || [];
    if (across) {
      const right = a.x < b.x;
      const x = right ? a.x + a.width : a.x;
      const end = right ? b.x : b.x + b.width;
      path.moveTo(x, middle(a));
      path.bezierCurveTo((x + end) / 2, middle(a), (x + end) / 2, middle(b), end, middle(b));
    } else if (!bends.length && gap > 3 * M.height) {
      const turn =
        Math.min(a.x, b.x) - Math.min(16 + Math.abs(middle(a) - middle(b)) / 40, M.aisle * 0.8);
      path.moveTo(a.x, middle(a));
      path.bezierCurveTo(turn, middle(a), turn, middle(b), b.x, middle(b));
    } else {
      let from = [a.x + a.width / 2, down ? a.y + a.height : a.y];
      path.moveTo(...from);
      for (const to of [...bends, [b.x + b.width / 2, down ? b.y : b.y + b.height]]) {
        const half = (from[1] + to[1]) / 2;
        path.bezierCurveTo(from[0], half, to[0], half, ...to);
        from = to;
      }
    }
    const top = Math.min(a.y, b.y);
    const bottom = Math.max(a.y + a.height, b.y + b.height);
    return { a, b, path, top, bottom, category: "" };
  }

  /** The lines of the nodes that are selected: all that they read and all that reads them. */
  linesOf(members) {
    return this.joined((value, node) => members.has(value.producer) || members.has(node.index));
  }

  draw(context, camera, theme, selection) {
    const window = camera.window();
    const inside = (box) =>
      box.y < window.bottom &&
      box.y + box.height > window.top &&
      box.x < window.right &&
      box.x + box.width > window.left;
    const boxes = this.layout.boxes.filter(inside);
    const lines = selection.lines;
    context.font = "600 12px system-ui, sans-serif";
    for (const box of boxes) if (box.open) this.drawFrame(context, box, theme, selection);
    context.lineWidth = Math.max(1.2, 0.5 / camera.scale);
    for (const line of this.lines) {
      if (line.bottom < window.top || line.top > window.bottom) continue;
      context.strokeStyle = theme[line.category] || theme.edge;
      context.globalAlpha = lines.length ? 0.16 : 0.75;
      context.stroke(line.path);
    }
    context.globalAlpha = 1;
    context.lineWidth = Math.max(2, 1 / camera.scale);
    for (const line of lines) {
      context.strokeStyle = theme[line.category] || theme.text;
      context.stroke(line.path);
    }
    for (const box of boxes)
      if (!box.open) this.drawCard(context, box, theme, selection, camera.scale);
    context.textAlign = "center";
    context.fillStyle = theme.faint;
    context.font = `600 ${Math.max(12, 11 / camera.scale)}px system-ui, sans-serif`;
    for (const { phase, x, width } of this.layout.columns) {
      context.fillText(this.model.phases[phase], x + width / 2, 4);
    }
    context.textAlign = "left";
  }

  drawFrame(context, box, theme, selection) {
    context.beginPath();
    context.roundRect(box.x, box.y, box.width, box.height, 8);
    context.fillStyle = theme.inner;
    context.fill();
    context.strokeStyle = selection.key === box.key ? theme.backward : theme.line;
    context.lineWidth = selection.key === box.key ? 2 : 1;
    context.stroke();
    context.fillStyle = theme.faint;
    context.fillText("▾", box.x + 10, box.y + 18);
    context.fillStyle = theme.text;
    context.fillText(box.item.title, box.x + 24, box.y + 18);
  }

  drawCard(context, box, theme, selection, scale) {
    const group = typeof box.item === "number" ? null : box.item;
    const members = group ? group.members : [box.item];
    const chosen = selection.key === box.key;
    const near = selection.near.has(box.key);
    context.beginPath();
    context.roundRect(box.x, box.y, box.width, box.height, 6);
    context.fillStyle = theme.card;
    context.fill();
    context.strokeStyle = chosen ? theme.backward : near ? theme.faint : theme.line;
    context.lineWidth = chosen ? 2.5 : 1;
    context.stroke();
    context.globalAlpha = selection.near.size && !near && !chosen ? 0.4 : 1;
    this.drawShares(context, box, members, theme, scale);
    const title = group ? group.title : titleOf(this.model.nodes[box.item]);
    const left = box.x + 18;
    const room = box.width - 26;
    context.fillStyle = theme.text;
    if (scale < 0.55) {
      const size = Math.min(26, 9 / scale);
      context.font = `600 ${size}px system-ui, sans-serif`;
      fillShort(context, title, left, box.y + box.height / 2 + size / 3, room);
    } else {
      context.font = "600 12.5px system-ui, sans-serif";
      fillShort(context, title, left, box.y + 20, group ? room - 14 : room);
      context.fillStyle = theme.faint;
      if (group) context.fillText("▸", box.x + box.width - 18, box.y + 20);
      context.font = "11.5px system-ui, sans-serif";
      const facts = group ? this.groupFacts(group) : this.nodeFacts(box.item);
      facts.forEach((fact, k) => fillShort(context, fact, left, box.y + 36 + 15 * k, room));
    }
    context.globalAlpha = 1;
  }

  /** A strip with the categories of a box's nodes. */
  drawShares(context, box, members, theme, scale) {
    const shares = members.flatMap((k) => this.sharesOf(this.model.nodes[k]));
    const counts = new Map();
    for (const category of shares) counts.set(category, (counts.get(category) || 0) + 1);
    let y = box.y + 5;
    for (const category of [...counts.keys()].sort((a, b) => a - b)) {
      const height = ((box.height - 10) * counts.get(category)) / shares.length;
      context.fillStyle = theme[this.model.categories[category]];
      context.fillRect(box.x + 5, y, scale < 0.55 ? 8 : 4, height);
      y += height;
    }
  }

  /** The categories of a node's strip: a fused node also tells whether its results are saved. */
  sharesOf(node) {
    const saved = this.model.categories.indexOf("saved");
    const both = node.category !== saved && node.outputs.some((v) => v.category === saved);
    return both ? [saved, node.category] : [node.category];
  }

  groupFacts(group) {
    if (!group.facts) {
      const bytes = group.members
        .flatMap((k) => this.model.nodes[k].outputs)
        .reduce((sum, value) => sum + value.bytes, 0);
      group.facts = [
        `${group.members.length.toLocaleString("en")} nodes`,
        `${sizeText(bytes)} made`,
      ];
    }
    return group.facts;
  }

  nodeFacts(position) {
    const node = this.model.nodes[position];
    const [result] = node.outputs;
    return [shortName(node), `${result.type}, ${sizeText(result.bytes)}`];
  }

  /** The innermost box at a point. */
  at(x, y) {
    return this.layout.boxes.findLast(
      (box) => x >= box.x && x <= box.x + box.width && y >= box.y && y <= box.y + box.height,
    );
  }

  tip(box) {
    if (!box || typeof box.item !== "number") return "";
    const node = this.model.nodes[box.item];
    return node.outputs.map((v) => `%${v.name}: ${v.type}`).join("\n");
  }
}

/** Text that ends in an ellipsis where there is no more room. */
function fillShort(context, text, x, y, room) {
  if (context.measureText(text).width > room) {
    let count = Math.floor((text.length * room) / context.measureText(text).width);
    while (count > 1 && context.measureText(text.slice(0, count) + "…").width > room) count--;
    text = text.slice(0, count) + "…";
  }
  context.fillText(text, x, y);
}
