// The class under the pointer: in every panel at once, so that models can be compared.
// Events are caught at the document, because each result replaces the panels.
(() => {
  const pixels = new WeakMap(); // panel's stage -> 2-D context that holds its class numbers

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
    const [red, green] = numbers.getImageData(column, row, 1, 1).data;
    const tips = JSON.parse(stage.dataset.tips);
    const tip = stage.querySelector(".tip");
    tip.textContent = tips[red + 256 * green] ?? "";
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

  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerdown", follow); // a tap on a touch screen
})();
