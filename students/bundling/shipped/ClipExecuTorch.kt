// A bundle's ExecuTorch towers on Android. build.gradle:
//   implementation("org.pytorch:executorch-android:1.5.1")
// Put the bundle's files into assets/. words.py says how a text becomes token ids: port it, or
// use labels.json with labels.f32, whose vectors are made already.

import android.content.Context
import android.graphics.Bitmap
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.exp
import org.json.JSONObject
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

class Clip(private val context: Context) {
    private val facts = JSONObject(text("metadata.json"))
    private val feeding = JSONObject(text("preprocessing.json"))
    private val image = open("image")
    private val words by lazy { open("text") }

    fun embed(picture: Bitmap): FloatArray {
        val size = feeding.getInt("image_size")
        // Bitmap's own filter is close to, not equal to, the one the student was trained with:
        // resize.js has that one in 40 lines. Shortest side to `size`, then the centre.
        val side = minOf(picture.width, picture.height)
        val square = Bitmap.createBitmap(
            picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side)
        val small = Bitmap.createScaledBitmap(square, size, size, true)
        val argb = IntArray(size * size)
        small.getPixels(argb, 0, size, 0, 0, size, size)
        val pixels = Tensor.allocateFloatBuffer(3 * size * size)
        for (channel in 0..2) {
            val mean = 255 * feeding.getJSONArray("mean").getDouble(channel).toFloat()
            val std = 255 * feeding.getJSONArray("std").getDouble(channel).toFloat()
            for (colour in argb) {
                pixels.put(((colour shr (16 - 8 * channel) and 0xff) - mean) / std)
            }
        }
        pixels.rewind()
        val shape = longArrayOf(1, 3, size.toLong(), size.toLong())
        return run(image, Tensor.fromBlob(pixels, shape))
    }

    fun embed(tokens: LongArray): FloatArray =
        run(words, Tensor.fromBlob(tokens, longArrayOf(1, tokens.size.toLong())))

    fun labels(): List<Pair<String, FloatArray>> {
        val labels = JSONObject(text("labels.json"))
        val width = labels.getJSONArray("shape").getInt(1)
        val bytes = context.assets.open(labels.getString("rows")).readBytes()
        val rows = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return List(labels.getJSONArray("labels").length()) { i ->
            val row = FloatArray(width).also { rows.get(it) }
            labels.getJSONArray("labels").getString(i) to row
        }
    }

    /** Probabilities over all texts; of a "sigmoid" student take 1 / (1 + exp(-(logit + bias))). */
    fun scores(picture: FloatArray, texts: List<FloatArray>): List<Double> {
        val scale = facts.getDouble("logit_scale")
        val logits = texts.map { text -> scale * text.indices.sumOf { (text[it] * picture[it]).toDouble() } }
        val shares = logits.map { exp(it - logits.max()) }
        return shares.map { it / shares.sum() }
    }

    private fun run(module: Module, input: Tensor): FloatArray =
        module.forward(EValue.from(input))[0].toTensor().dataAsFloatArray

    /** The runtime opens files, not assets. */
    private fun open(tower: String): Module {
        val name = facts.getJSONObject("towers").getJSONObject(tower).getString("file")
        val copy = File(context.filesDir, name)
        context.assets.open(name).use { from -> copy.outputStream().use { from.copyTo(it) } }
        return Module.load(copy.path)
    }

    private fun text(name: String) = context.assets.open(name).bufferedReader().use { it.readText() }
}
