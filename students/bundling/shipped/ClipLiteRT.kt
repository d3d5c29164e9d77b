// A bundle's LiteRT towers on Android. build.gradle:
//   implementation("com.google.ai.edge.litert:litert:1.4.0")
// Put the bundle's files into assets/. words.py says how a text becomes token ids: port it, or
// use labels.json with labels.f32, whose vectors are made already.

import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.exp
import org.json.JSONObject
import org.tensorflow.lite.Interpreter

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
        val pixels = buffer(3 * size * size)
        for (channel in 0..2) {
            val mean = 255 * feeding.getJSONArray("mean").getDouble(channel).toFloat()
            val std = 255 * feeding.getJSONArray("std").getDouble(channel).toFloat()
            for (colour in argb) {
                pixels.putFloat(((colour shr (16 - 8 * channel) and 0xff) - mean) / std)
            }
        }
        return run(image, pixels)
    }

    fun embed(tokens: IntArray): FloatArray =
        run(words, buffer(tokens.size).also { ids -> tokens.forEach(ids::putInt) })

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

    private fun run(interpreter: Interpreter, input: ByteBuffer): FloatArray {
        input.rewind()
        val made = arrayOf(FloatArray(facts.getInt("embed_dim")))
        interpreter.run(input, made)
        return made[0]
    }

    private fun open(tower: String): Interpreter {
        val file = facts.getJSONObject("towers").getJSONObject(tower).getString("file")
        val bytes = context.assets.open(file).readBytes()
        val model = ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.nativeOrder())
        model.put(bytes).rewind()
        return Interpreter(model)
    }

    /** Room for so many numbers of four bytes. */
    private fun buffer(count: Int) = ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder())

    private fun text(name: String) = context.assets.open(name).bufferedReader().use { it.readText() }
}
