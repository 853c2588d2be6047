// The search: values, ops and scopes by parts of their names.

class Search {
  constructor(model, go) {
    this.model = model;
    this.go = go;
    this.input = byId("search");
    this.list = byId("found");
    this.entries = [
      ...[...new Set([...model.byKey.values()].map((group) => group.scope))].map((scope) => ({
        text: scope,
        kind: "scope",
        scope,
      })),
      ...model.values.map((value) => ({
        text: value.name,
        value,
        kind: value.role || titleOf(model.nodes[value.producer]),
      })),
    ];
    this.input.addEventListener("input", () => this.find());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("blur", () => {
      this.list.hidden = true;
    });
  }

  /** Entries that have all words in their name or kind, the shortest names first. */
  find() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ text, kind }) =>
      words.every((word) => text.toLowerCase().includes(word) || kind.toLowerCase().includes(word));
    const all = words.length ? this.entries.filter(fits) : [];
    this.found = all.sort((a, b) => a.text.length - b.text.length).slice(0, 14);
    this.mark(0);
  }

  mark(place) {
    this.place = place;
    this.list.hidden = !this.found.length;
    this.list.replaceChildren(
      ...this.found.map((entry, k) =>
        el(
          "li",
          {
            className: k === place ? "on" : "",
            onmousedown: (event) => {
              event.preventDefault();
              this.choose(entry);
            },
          },
          el("b", {}, entry.text),
          el("span", {}, entry.kind),
        ),
      ),
    );
  }

  key(event) {
    const count = (this.found || []).length;
    if (event.key === "Escape") this.input.blur();
    else if (!count) return;
    else if (event.key === "Enter") this.choose(this.found[this.place]);
    else if (event.key === "ArrowDown") this.mark((this.place + 1) % count);
    else if (event.key === "ArrowUp") this.mark((this.place + count - 1) % count);
    else return;
    event.preventDefault();
  }

  choose(entry) {
    this.input.blur();
    this.go(entry);
  }
}
