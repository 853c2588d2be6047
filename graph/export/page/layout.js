// Coordinates: the rules of layout.py, applied to what is open now.

function keyOf(item) {
  return typeof item === "number" ? "#" + item : item.key;
}

/** All visible boxes, outer ones first, and the bends of the lines between them. */
function layOut(groups, opened, M) {
  const sized = new Map(groups.map((group) => [group.key, measure(group, opened, M)]));
  const scopes = [...new Set(groups.map((group) => group.scope))];
  const phases = [...new Set(groups.map((group) => group.phase))].sort((a, b) => a - b);
  const layout = { boxes: [], bends: new Map(), columns: [], width: 0, height: 0 };
  const rows = new Map();
  let y = M.head;
  for (const scope of scopes) {
    const members = groups.filter((group) => group.scope === scope);
    const height = Math.max(...members.map((group) => sized.get(group.key).height));
    rows.set(scope, [y, height]);
    y += height + M.rise;
  }
  let x = 0;
  for (const phase of phases) {
    const column = groups.filter((group) => group.phase === phase);
    const width = Math.max(...column.map((group) => sized.get(group.key).width));
    for (const group of column) {
      const box = sized.get(group.key);
      const [top, height] = rows.get(group.scope);
      put(box, x + (width - box.width) / 2, top + (height - box.height) / 2, layout);
    }
    layout.columns.push({ phase, x, width });
    x += width + M.aisle;
  }
  layout.width = x - M.aisle;
  layout.height = y - M.rise;
  return layout;
}

/** The size of a node or group, and where its children are inside it. */
function measure(item, opened, M) {
  const box = { item, width: M.width, height: M.height, open: false };
  if (typeof item === "number" || !opened.has(item.scope)) return box;
  box.open = true;
  box.children = item.children.map((child) => measure(child, opened, M));
  box.places = new Map();
  box.turns = new Map();
  const lefts = rowLefts(
    item,
    box.children.map((child) => child.width),
    M,
  );
  const order = item.rows.map((_, k) => k);
  if (item.upwards) order.reverse();
  let y = M.head + M.pad;
  let right = 0;
  for (const k of order) {
    const row = item.rows[k];
    const height = Math.max(0, ...row.filter((s) => s >= 0).map((s) => box.children[s].height));
    row.forEach((slot, place) => {
      const left = lefts[k][place];
      if (slot < 0) {
        const link = -1 - slot;
        if (!box.turns.has(link)) box.turns.set(link, []);
        box.turns.get(link).push([left + M.pad + M.bend / 2, y + height / 2]);
        right = Math.max(right, left + M.bend);
      } else {
        const child = box.children[slot];
        box.places.set(slot, [left + M.pad, y + (height - child.height) / 2]);
        right = Math.max(right, left + child.width);
      }
    });
    y += height + M.rise;
  }
  box.width = Math.max(right + 2 * M.pad, box.width);
  box.height = y - M.rise + M.pad;
  return box;
}

/** Add a measured box and what is in it at a place. */
function put(box, x, y, layout) {
  const { item, open, width, height } = box;
  layout.boxes.push({ item, key: keyOf(item), open, x, y, width, height });
  if (!open) return;
  for (const [slot, [left, top]] of box.places) put(box.children[slot], x + left, y + top, layout);
  for (const [link, turns] of box.turns) {
    const [a, b] = item.links[link].map((end) => keyOf(item.children[end]));
    const points = turns.map(([left, top]) => [x + left, y + top]);
    layout.bends.set(a + ">" + b, item.upwards ? points.reverse() : points);
  }
}

/** Left edges of the slots of every row, drawn towards their neighbours in other rows. */
function rowLefts(group, widths, M) {
  const sizes = group.rows.map((row) => row.map((slot) => (slot >= 0 ? widths[slot] : M.bend)));
  const centers = sizes.map((row) =>
    spread(
      row.map(() => 0),
      row,
      M,
    ),
  );
  const above = neighboursAbove(group);
  const below = group.rows.map((row) => row.map(() => []));
  for (let k = 1; k < above.length; k++) {
    above[k].forEach((others, place) => others.forEach((o) => below[k - 1][o].push(place)));
  }
  const last = sizes.length - 1;
  for (let sweep = 0; sweep < M.sweeps; sweep++) {
    const up = sweep % 2 === 1;
    for (let step = 1; step <= last; step++) {
      const k = up ? last - step : step;
      const fixed = centers[up ? k + 1 : k - 1];
      const near = (up ? below : above)[k];
      const wanted = near.map((others, place) =>
        others.length
          ? others.reduce((sum, o) => sum + fixed[o], 0) / others.length
          : centers[k][place],
      );
      centers[k] = spread(wanted, sizes[k], M);
    }
  }
  const lefts = centers.map((row, k) => row.map((center, place) => center - sizes[k][place] / 2));
  const leftmost = Math.min(...lefts.map((row) => row[0]));
  return lefts.map((row) => row.map((left) => left - leftmost));
}

/** For every slot the places of its neighbours in the row above. */
function neighboursAbove(group) {
  const sources = new Map();
  const note = (slot, ...others) => sources.set(slot, [...(sources.get(slot) || []), ...others]);
  group.links.forEach(([a, b], k) => {
    note(b, a, -1 - k);
    note(-1 - k, a, -1 - k);
  });
  return group.rows.map((row, k) => {
    if (!k) return row.map(() => []);
    const places = new Map(group.rows[k - 1].map((slot, place) => [slot, place]));
    return row.map((slot) =>
      (sources.get(slot) || []).filter((s) => places.has(s)).map((s) => places.get(s)),
    );
  });
}

/** Centers near the wanted ones, in order and without overlap. */
function spread(wanted, sizes, M) {
  const right = [...wanted];
  const left = [...wanted];
  const step = (k) => (sizes[k] + sizes[k + 1]) / 2 + M.gap;
  for (let k = 0; k + 1 < right.length; k++)
    right[k + 1] = Math.max(right[k + 1], right[k] + step(k));
  for (let k = left.length - 2; k >= 0; k--) left[k] = Math.min(left[k], left[k + 1] - step(k));
  return right.map((value, k) => (value + left[k]) / 2);
}
