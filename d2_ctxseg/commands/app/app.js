// The class under the pointer, and unsure pixels: in every panel at once, so that models can be
// compared.
// Events are caught at the document, because each result replaces the panels.
(() => {
  const pixels = new WeakMap(); // panel's stage -> 2-D context: class numbers and confidences
  const unsure = { mode: "", threshold: 0 };

  function numbersOf(stage) {
    if (!pixels.has(stage)) {
      const image = stage.querySelector(".numbers");
      if (!image.complete || !image.naturalWidth) return null;
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      pixels.set(stage, context);
    }
    return pixels.get(stage);
  }

  // x and y in [0, 1): the place in the image.
  function point(stage, x, y) {
    const numbers = numbersOf(stage);
    if (!numbers) return;
    const column = Math.floor(x * numbers.canvas.width);
    const row = Math.floor(y * numbers.canvas.height);
    const [red, green, blue] = numbers.getImageData(column, row, 1, 1).data;
    const tips = JSON.parse(stage.dataset.tips);
    const tip = stage.querySelector(".tip");
    const sure = `${Math.round(blue / 2.55)} % sure`;
    tip.textContent = `${tips[red + 256 * green] ?? ""} · ${sure}`;
    stage.classList.add("pointed");
    for (const element of [tip, stage.querySelector(".mark")]) {
      element.style.left = `${100 * x}%`;
      element.style.top = `${100 * y}%`;
    }
    tip.classList.toggle("leftwards", x > 0.5);
    tip.classList.toggle("upwards", y > 0.8);
  }

  function follow(event) {
    const stage = event.target.closest?.(".stage");
    if (!stage) {
      document.querySelectorAll(".stage.pointed").forEach((s) => s.classList.remove("pointed"));
      return;
    }
    const box = stage.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    stage.closest(".panels").querySelectorAll(".stage").forEach((s) => point(s, x, y));
  }

  // Over the classes: dark stripes on unsure pixels, or the image itself, which leaves no class.
  function drawUnsure(stage) {
    const numbers = numbersOf(stage);
    const photo = stage.querySelector(".photo");
    if (!numbers || !photo.complete) return;
    const { width, height } = numbers.canvas;
    const canvas = stage.querySelector(".unsure");
    canvas.width = width; // which also empties it
    canvas.height = height;
    const isHatched = unsure.mode.startsWith("Hatched");
    const isBlank = unsure.mode.startsWith("Without");
    const note = stage.parentElement.querySelector(".unsure-share");
    note.textContent = "";
    if (!isHatched && !isBlank) return;

    const context = canvas.getContext("2d");
    if (isBlank) context.drawImage(photo, 0, 0, width, height);
    const layer = context.getImageData(0, 0, width, height);
    const confidences = numbers.getImageData(0, 0, width, height).data;
    let count = 0;
    for (let i = 0; i < width * height; i++) {
      const isUnsure = confidences[4 * i + 2] < 255 * unsure.threshold;
      count += isUnsure;
      if (isBlank) layer.data[4 * i + 3] = isUnsure ? 255 : 0;
      else if (isUnsure && ((i % width) + Math.floor(i / width)) % 8 < 3) layer.data[4 * i + 3] = 190;
    }
    context.putImageData(layer, 0, 0);
    const share = ((100 * count) / (width * height)).toFixed(1);
    const doubt = stage.dataset.calibrated === "true" ? "" : " (confidence is not calibrated)";
    note.textContent = `${share} % of the pixels are less than ${Math.round(100 * unsure.threshold)} % sure${doubt}.`;
  }

  window.showUnsure = (mode, threshold) => {
    Object.assign(unsure, { mode, threshold });
    document.querySelectorAll(".stage").forEach(drawUnsure);
  };

  // A new result is drawn once its images are there; such events do not bubble.
  document.addEventListener("load", (event) => {
    const stage = event.target.closest?.(".stage");
    if (stage) drawUnsure(stage);
  }, true);
  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerdown", follow); // a tap on a touch screen
})();
