// The data of the page, unpacked, and what follows from it.

/** Build nodes, values and groups from the packed form that html.py writes. */
function readModel(data) {
  const text = (k) => data.table[k];
  const values = [];
  const nodes = [];
  const value = (name, type, category, producer) => {
    const [typeText, bytes] = data.types[type];
    const made = {
      index: values.length,
      name,
      type: typeText,
      bytes,
      category,
      producer,
      users: [],
    };
    values.push(made);
    return made;
  };
  const inputs = data.inputs.map(([name, type, role]) =>
    Object.assign(value(name, type, -1, -1), { role: text(role) }),
  );
  data.nodes.forEach(([op, scope, phase, category, operands, results, attrs], index) => {
    const outputs = results.map(([name, type, kind]) => value(name, type, kind, index));
    const attributes = [];
    for (let k = 0; k < attrs.length; k += 2) attributes.push([text(attrs[k]), text(attrs[k + 1])]);
    nodes.push({
      index,
      op: text(op),
      scope: text(scope),
      phase,
      category,
      attributes,
      inputs: operands,
      outputs,
      launches: [],
    });
  });
  for (const node of nodes) {
    node.inputs = node.inputs.map((k) => values[k]);
    for (const operand of new Set(node.inputs)) operand.users.push(node.index);
  }
  const groups = data.groups.map((packed) => readGroup(packed, data));
  const returned = new Set(data.outputs);
  values.forEach((v, k) => {
    v.returned = returned.has(k);
  });
  for (const [output, donated] of data.aliases) values[output].replaces = values[donated];
  const model = { ...data, values, nodes, groups, inputs, broad: new Set(data.broad) };
  model.byName = new Map(values.map((v) => [v.name, v]));
  model.byKey = new Map();
  groups.forEach((group) => noteGroup(group, model.byKey));
  if (data.execution) model.execution = readExecution(data.execution, model, text);
  return model;
}

function readGroup([phase, scope, children, links, rows], data) {
  const group = {
    phase,
    scope: data.table[scope],
    links,
    rows,
    upwards: data.phases[phase] === "backward",
  };
  group.key = data.phases[phase] + ":" + group.scope;
  group.title = group.scope.split("/").pop() || "no scope";
  group.children = children.map((c) => (typeof c === "number" ? c : readGroup(c, data)));
  group.members = group.children.flatMap((c) => (typeof c === "number" ? [c] : c.members));
  return group;
}

function noteGroup(group, byKey) {
  byKey.set(group.key, group);
  group.children.forEach((child) => {
    if (typeof child !== "number") noteGroup(child, byKey);
  });
}

function readExecution(packed, model, text) {
  const range = ([buffer, offset, size]) => ({ buffer: text(buffer), offset, size });
  const launches = packed.launches.map(
    ([node, kernel, constants, groups, barrier, bound], position) => {
      const launch = {
        position,
        node,
        kernel: text(kernel),
        constants: text(constants),
        groups,
        barrier,
        bindings: bound.map(([access, ...place]) => ({ access: text(access), ...range(place) })),
      };
      if (node >= 0) model.nodes[node].launches.push(launch);
      return launch;
    },
  );
  const spans = packed.spans.map(([names, title, begin, end, category, ...place], key) => {
    const tenants = names.filter((name) => typeof name === "number").map((k) => model.values[k]);
    const span = { key, tenants, title, begin, end, category, ...range(place) };
    for (const value of tenants) value.span = span;
    return span;
  });
  packed.places.forEach(([value, ...place]) => {
    model.values[value].place = range(place);
  });
  return { ...packed, launches, spans };
}

/** Bytes as people read them. */
function sizeText(bytes) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024 || unit === "GiB") return Number(bytes.toPrecision(4)) + " " + unit;
    bytes /= 1024;
  }
}

/** The op, or the pattern of a fused node. */
function titleOf(node) {
  const [, pattern] = node.attributes.find(([name]) => name === "pattern") || [];
  return node.op === "fused" && pattern ? pattern : node.op;
}

/** The name of a node's first result, without what its scope says already. */
function shortName(node) {
  const name = node.outputs[0].name;
  const place = node.scope.split("/").filter((part) => part !== "grad" && part !== "recompute");
  for (const prefix of [place.join("."), place[0] || ""]) {
    if (name.includes(prefix + ".")) return name.replace(prefix + ".", "");
  }
  return name;
}
