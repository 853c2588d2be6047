// What part of a picture is on the screen.

class Camera {
  constructor(canvas) {
    this.canvas = canvas;
    this.x = 0;
    this.y = 0;
    this.scale = 1;
  }

  get size() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  toPicture(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toScreen(x, y) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  window() {
    const [left, top] = this.toPicture(0, 0);
    const [right, bottom] = this.toPicture(...this.size);
    return { left, top, right, bottom };
  }

  zoom(factor, x, y) {
    const scale = Math.min(Math.max(this.scale * factor, 0.02), 40);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
  }

  /** Show all of a picture, or its top where that would be too small to read. */
  fit(bounds, least = 0) {
    const [width, height] = this.size;
    const whole = Math.min((width - 60) / bounds.width, (height - 90) / bounds.height, 1.2);
    this.scale = Math.max(whole, Math.min(least, (width - 60) / bounds.width));
    this.x = (width - bounds.width * this.scale) / 2 - bounds.x * this.scale;
    const room = height - 50 - bounds.height * this.scale;
    this.y = Math.max(room / 2, 34) - bounds.y * this.scale;
  }

  center(box) {
    const [width, height] = this.size;
    this.scale = Math.min(Math.max(this.scale, 0.8), 1.2);
    this.x = width / 2 - (box.x + box.width / 2) * this.scale;
    this.y = height / 2 - (box.y + Math.min(box.height, height / this.scale) / 2) * this.scale;
  }
}
