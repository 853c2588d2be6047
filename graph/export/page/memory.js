// Memory over a step: arena offsets upwards, dispatches to the right.

class MemoryPicture {
  constructor(model) {
    this.model = model;
    const { spans, arenas, launches } = model.execution;
    this.width = 1400;
    this.height = 700;
    this.floors = new Map();
    let floor = 0;
    for (const [name, size] of arenas) {
      this.floors.set(name, floor);
      floor += size;
    }
    this.total = Math.max(floor, 1);
    this.xScale = this.width / Math.max(launches.length, 1);
    this.yScale = this.height / this.total;
    this.rects = spans.map((span) => this.rect(span));
    this.live = liveBytes(spans, launches.length);
    this.peak = this.live.reduce((best, bytes, k) => (bytes > this.live[best] ? k : best), 0);
  }

  get bounds() {
    return { x: -110, y: -40, width: this.width + 150, height: this.height + 90 };
  }

  rect(span) {
    const bottom = this.floors.get(span.buffer) + span.offset;
    return {
      span,
      key: span.key,
      x: span.begin * this.xScale,
      width: (span.end + 1 - span.begin) * this.xScale,
      y: this.height - (bottom + span.size) * this.yScale,
      height: span.size * this.yScale,
    };
  }

  draw(context, camera, theme, selection) {
    const least = 0.5 / camera.scale;
    context.fillStyle = theme.card;
    context.fillRect(0, 0, this.width, this.height);
    const chosen = selection.value && selection.value.span;
    for (const { span, x, y, width, height } of this.rects) {
      context.globalAlpha = chosen && chosen !== span ? 0.3 : 0.8;
      context.fillStyle = theme[this.model.categories[span.category]];
      context.fillRect(x, y, Math.max(width, least), Math.max(height, least));
      if (height * camera.scale > 5) {
        context.globalAlpha = 0.5;
        context.fillStyle = theme.card;
        context.fillRect(x, y, width, 0.7 / camera.scale);
      }
    }
    context.globalAlpha = 1;
    this.drawAxes(context, camera, theme);
    this.drawLive(context, camera, theme);
  }

  /** Scales beside the picture, or at the edge of what is visible of it. */
  drawAxes(context, camera, theme) {
    const size = 12 / camera.scale;
    const window = camera.window();
    const [left, right] = [Math.max(window.left, 0), Math.min(window.right, this.width)];
    const [top, bottom] = [Math.max(window.top, 0), Math.min(window.bottom, this.height)];
    context.font = `${size}px system-ui, sans-serif`;
    context.strokeStyle = theme.line;
    context.lineWidth = 1 / camera.scale;
    context.strokeRect(0, 0, this.width, this.height);
    for (const [name, floor] of this.floors) {
      const y = this.height - floor * this.yScale;
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(this.width, y);
      context.stroke();
      context.textAlign = "right";
      context.fillStyle = theme.faint;
      context.fillText(name, right - size / 2, y - size / 3);
    }
    const beside = window.left < -6 * size;
    const below = window.bottom > this.height + 2 * size;
    context.fillStyle = theme.text;
    for (let k = 0; k <= 4; k++) {
      const y = bottom + ((top - bottom) * k) / 4;
      const level = (this.height - y) / this.yScale;
      context.textAlign = beside ? "right" : "left";
      const drop = beside ? 0.35 : k ? 1 : -2;
      context.fillText(sizeText(level), beside ? -size / 2 : left + size, y + size * drop);
      const x = left + ((right - left) * k) / 4;
      context.textAlign = beside || (k > 0 && k < 4) ? "center" : k ? "right" : "left";
      const position = Math.round(x / this.xScale).toLocaleString("en");
      context.fillText(position, x, below ? this.height + 1.6 * size : bottom - size / 2);
    }
    context.textAlign = "center";
    context.fillStyle = theme.faint;
    context.fillText("dispatches, in order", this.width / 2, this.height + 3.2 * size);
    context.textAlign = "left";
  }

  drawLive(context, camera, theme) {
    context.beginPath();
    this.live.forEach((bytes, k) => {
      const y = this.height - bytes * this.yScale;
      context.lineTo(k * this.xScale, y);
      context.lineTo((k + 1) * this.xScale, y);
    });
    context.strokeStyle = theme.text;
    context.lineWidth = 1.4 / camera.scale;
    context.stroke();
    const x = (this.peak + 0.5) * this.xScale;
    const y = this.height - this.live[this.peak] * this.yScale;
    context.beginPath();
    context.arc(x, y, 4 / camera.scale, 0, 7);
    context.fillStyle = theme.text;
    context.fill();
    const size = 13 / camera.scale;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillText(`peak ${sizeText(this.live[this.peak])}`, x + 10 / camera.scale, y - size / 2);
  }

  at(x, y) {
    return this.rects.findLast(
      (r) => x >= r.x && x <= r.x + r.width && y >= r.y && y <= r.y + r.height,
    );
  }

  tip(rect) {
    if (!rect) return "";
    const { title, size, begin, end, buffer, offset } = rect.span;
    const place = `${buffer}[${offset}:${offset + size}]`;
    return `${title}\n${sizeText(size)}, dispatches ${begin} to ${end}\n${place}`;
  }
}

/** Bytes of the values alive at each dispatch. */
function liveBytes(spans, count) {
  const change = new Float64Array(count + 1);
  for (const { begin, end, size } of spans) {
    change[begin] += size;
    change[end + 1] -= size;
  }
  let sum = 0;
  return Array.from(change.subarray(0, count), (step) => (sum += step));
}
